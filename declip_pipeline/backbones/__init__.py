"""Frozen networks behind one contract: images in, features of the requested layers out."""
