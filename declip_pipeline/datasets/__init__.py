"""Data sets of pictures and masks: from the layouts people keep them in to one manifest."""
