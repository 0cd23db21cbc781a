"""The timeline: who held how much memory in the last hour and the last week."""
