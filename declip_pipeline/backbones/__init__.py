"""Frozen networks behind one contract: pictures in, features of the asked layers out."""
