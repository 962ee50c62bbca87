"""Demo set: four ways of forging photographs that the installed packages ship."""
