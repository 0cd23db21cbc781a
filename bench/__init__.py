"""Measurements; ``python -m bench NAME`` runs one and prints what goes into RESULTS.md."""
