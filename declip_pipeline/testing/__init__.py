"""Contracts as test classes, for parts of one's own: subclass one in a test and run pytest."""
