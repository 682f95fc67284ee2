"""Keeps a standby of an AI service ready in another region or cloud, and puts it on stage when the primary falls."""

__version__ = "0.1.0"
