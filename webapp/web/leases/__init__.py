"""Leases and release requests."""
