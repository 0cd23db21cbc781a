"""The history of operations, and the page of each operation."""
