"""Warnings about training that goes on."""

from __future__ import annotations

import logging

from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.training.result import Result

_LOG = logging.getLogger("rlpipe")
_PATIENCE = 10_000
"""Steps of each environment without an update or the end of an episode, after which a warning says so."""


def warn_of_fresh_environments(pipeline: Pipeline) -> None:
    if pipeline.environments is None:
        _LOG.warning(
            "rlpipe: checkpoints cannot save this collector's environments: a resumed run continues in fresh ones, "
            "with other results; those of SyncDataCollector are saved, if each transform treats every step by itself"
        )


def warn_of_nothing_yet(result: Result, before: int, *, num_envs: int) -> None:
    """Warn once, by the frames before the last batch and after it, if training has achieved nothing for too long."""
    if not result.updates and not result.episodes and before < _PATIENCE * num_envs <= result.frames:
        warn_of_no_updates(result, "training has made")


def warn_of_no_updates(result: Result, what: str) -> None:
    if result.episodes:
        why = "raise total_frames, or lower what learning waits for, such as warmup_frames"
    else:
        why = (
            "no episode has ended, and some algorithms learn from whole episodes; --max-episode-steps "
            "(max_episode_steps) sets a limit"
        )
    _LOG.warning("rlpipe: %s 0 updates in %s frames: %s", what, f"{result.frames:,}", why)
