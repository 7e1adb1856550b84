"""Replay: by priority, of images that are stored once, of whole episodes; and its state in checkpoints."""
