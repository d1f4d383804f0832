"""Other libraries' ways of saying things, for what `rh` does."""
