"""Who did what, when, and how it ended."""
