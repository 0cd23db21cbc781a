"""The audit log: recording what views do, and the page that shows it."""
