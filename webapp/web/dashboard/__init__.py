"""The dashboard: its page, its refreshed regions, and the actions of its rows."""
