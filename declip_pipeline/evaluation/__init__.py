"""Decoders judged on stores, and applied to single pictures."""
