"""The Docker engine; the only user of the library ``docker``."""
