"""The errors that rlpipe raises on purpose: one line each, with what was found and what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class RlpipeError(Exception):
    """Base of every error that rlpipe raises on purpose.

    The command line prints it as one line and exits with `exit_code`.
    """

    exit_code = 1


class ConfigError(RlpipeError):
    """An option, environment, run folder or device that cannot be used."""

    exit_code = 2


class CheckpointError(ConfigError):
    """A path that holds no run, or a checkpoint that is damaged or belongs to another network."""


class InterruptedRunError(RlpipeError):
    """Ctrl-C (exit code 130) or SIGTERM (143) during training."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrainingError(RlpipeError):
    """Training stopped: a loss or a gradient became NaN or infinite, an environment failed, or the disk is full."""

    checkpoint = ""
    """What the message says at its end of the last good checkpoint."""

    def __str__(self) -> str:
        return "; ".join(filter(None, (super().__str__(), self.checkpoint)))


class PolicyDivergedError(TrainingError):
    """Training stopped: the policy has such large weights that its checkpoints are probably of no use."""


class GPUMemoryError(TrainingError):
    """Training stopped: the GPU ran out of memory."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def exists_already(what: str, path: Path | str) -> ConfigError:
    """The error for an output that exists; `what` is the option that names it, such as `out` or `run-dir`."""
    return ConfigError(f"{what} {path} exists already; nothing was overwritten, name a new one")


def shown(value: Any) -> str:
    """`repr`, shortened to one line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:
        # Python refuses to print such integers
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:60]}... ({len(text)} characters)"
