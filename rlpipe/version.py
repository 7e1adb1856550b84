"""The version of rlpipe."""

__version__ = "0.1.0"
