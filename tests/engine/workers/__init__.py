"""Programs for WARDEN_WORKER_COMMAND: variants of the real worker."""
