"""The history of operations and each operation's own page."""
