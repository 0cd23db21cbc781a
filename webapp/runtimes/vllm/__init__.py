"""vLLM mode: one container per model."""
