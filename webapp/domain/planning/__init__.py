"""Plans a switch: the memory it needs, its possible devices, whether it fits, and alternatives if it does not."""
