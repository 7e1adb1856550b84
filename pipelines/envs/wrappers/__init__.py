"""Wrappers that options add to an environment, and a check of those that users add."""
