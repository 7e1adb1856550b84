"""The command line: `rlpipe ...`, and the same as `python scripts/train.py ...`."""
