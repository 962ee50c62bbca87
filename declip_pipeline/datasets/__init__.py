"""Datasets of images and masks: their layouts on disk, and one table of samples."""
