"""Features: the offline store replicated, online stores rebuilt from it."""
