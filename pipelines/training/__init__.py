"""The training loop, its metrics, and what ends it."""
