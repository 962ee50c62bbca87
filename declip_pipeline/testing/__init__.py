"""Contract tests that extensions of this package inherit; they need pytest."""
