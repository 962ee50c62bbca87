"""`declip-pipe app`: a local page that looks at images."""
