"""Wrappers that options add to an environment: frame stack, action repeat, and the time that remains."""
