"""The run folder: made, written, read, locked, drawn."""
