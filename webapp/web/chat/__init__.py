"""Questions to a loaded model."""
