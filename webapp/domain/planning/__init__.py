"""Planning a switch: what it needs, where it could go, whether it fits, and what would make it fit."""
