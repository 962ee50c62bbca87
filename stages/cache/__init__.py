"""`declip-pipe cache`: look after stores; one file a command."""
