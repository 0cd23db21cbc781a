"""The dashboard's regions as frozen views."""
