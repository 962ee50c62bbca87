"""`declip-pipe data`: look at datasets; one file a command."""
