"""The program `declip-pipe`: one file per command, each read from top to bottom."""
