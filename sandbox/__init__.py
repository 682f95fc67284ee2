"""Loopback servers for the demo, the tests and the drills."""
