"""Checkpoints: written in one step, and checked before they are loaded."""
