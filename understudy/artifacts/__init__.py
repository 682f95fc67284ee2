"""Model files: pushed into the vault, hydrated out of it."""
