"""Sessions, credentials and endpoint overrides, one file a cloud."""
