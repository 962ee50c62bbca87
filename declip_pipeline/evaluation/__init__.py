"""Evaluation of runs on stores, tables of evaluations, and prediction for single images."""
