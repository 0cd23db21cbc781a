"""Accounts and people as frozen views."""
