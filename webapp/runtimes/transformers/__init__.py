"""Warden's side of Transformers mode: one worker process per model."""
