"""The form that loads a model: its values, the plan, and what the main button does."""
