"""People, how they sign in, and their tokens."""
