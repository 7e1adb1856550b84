"""The errors that rlpipe raises for people: one line each, with what was found and what would be right."""

from __future__ import annotations


class RlpipeError(Exception):
    """Base of every error that rlpipe raises on purpose.

    The command line prints it as one line and exits with `exit_code`.
    """

    exit_code = 1


class ConfigError(RlpipeError):
    """Something that was asked for cannot be done: a bad option, environment, run folder or device."""

    exit_code = 2


class CheckpointError(ConfigError):
    """A path holds no run, or a checkpoint in it is damaged or belongs to another network."""


class InterruptedRunError(RlpipeError):
    """Ctrl-C during training."""

    exit_code = 130


class TrainingError(RlpipeError):
    """Training had to stop: a loss or a gradient became NaN or infinite."""
