"""Measurements; ``python -m bench NAME`` runs one and prints the table for RESULTS.md."""
