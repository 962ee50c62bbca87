"""Datasets of images and masks: from the layouts people keep them in to one manifest."""
