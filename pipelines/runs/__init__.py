"""Run folders: making, writing, reading, locking and drawing them."""
