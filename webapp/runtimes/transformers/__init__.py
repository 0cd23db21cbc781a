"""Transformers mode, Warden's side: one worker process a model."""
