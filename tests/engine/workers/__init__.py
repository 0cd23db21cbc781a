"""Programs for WARDEN_WORKER_COMMAND: the real worker with something about it changed."""
