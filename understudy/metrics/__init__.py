"""Measurements: what is measured, read from the stores, and sent where the config says."""
