"""Metrics of localization and detection, and their bootstrap intervals."""
