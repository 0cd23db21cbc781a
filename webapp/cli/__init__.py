"""The command line: ``warden``."""
