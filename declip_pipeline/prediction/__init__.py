"""Prediction of many images: a pipeline from files to maps, and a folder of results."""
