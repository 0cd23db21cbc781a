"""The audit log: what a view records, and the page that shows it."""
