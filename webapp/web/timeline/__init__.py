"""Who held how much memory in the last hour and week."""
