"""How well a map finds the manipulated pixels, and a score the manipulated pictures."""
