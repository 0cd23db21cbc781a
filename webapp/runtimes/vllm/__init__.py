"""vLLM mode: one container a model."""
