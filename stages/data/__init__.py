"""`declip-pipe data`: look at data sets; one file a command."""
