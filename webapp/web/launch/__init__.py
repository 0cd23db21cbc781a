"""The launch form: its values, its plan, and its main button."""
