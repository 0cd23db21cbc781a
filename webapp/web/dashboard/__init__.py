"""The dashboard: its page, the regions that are refreshed, and the actions of its rows."""
