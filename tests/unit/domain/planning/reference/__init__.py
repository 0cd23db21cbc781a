"""The planner as it was before it became a pipeline, unchanged: ``test_same_answers`` compares the two over random worlds."""
