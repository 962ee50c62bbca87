"""Frozen features once, decoders from the store: localizing manipulated pixels (DeCLIP)."""

__version__ = "0.1.0"
