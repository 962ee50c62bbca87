"""Contract tests that a decoder, backbone or dataset of one's own can inherit, for pytest."""
