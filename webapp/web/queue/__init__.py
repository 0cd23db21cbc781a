"""The launch queue."""
