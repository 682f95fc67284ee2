"""Benchmarks beside peers; each prints a table."""
