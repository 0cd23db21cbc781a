"""The form and its plan as frozen views."""
