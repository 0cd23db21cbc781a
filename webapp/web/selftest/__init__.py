"""The self-test's page."""
