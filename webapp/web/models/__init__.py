"""The list of cached models."""
