"""The launch form and its plan as frozen views."""
