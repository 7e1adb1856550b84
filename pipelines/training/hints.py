"""Warnings about training that goes on."""

from __future__ import annotations

import logging

from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.training.result import Result

_LOG = logging.getLogger("rlpipe")


def warn_of_fresh_environments(pipeline: Pipeline) -> None:
    if pipeline.environments is None:
        _LOG.warning(
            "rlpipe: checkpoints cannot save this collector's environments: a resumed run continues in fresh ones, "
            "with other results; those of SyncDataCollector are saved, if each transform treats every step by itself"
        )


def warn_of_no_updates(result: Result, what: str) -> None:
    if result.episodes:
        why = "raise total_frames, or lower what learning waits for, such as warmup_frames"
    else:
        why = (
            "no episode has ended, and some algorithms learn from whole episodes; --max-episode-steps "
            "(max_episode_steps) sets a limit"
        )
    _LOG.warning("rlpipe: %s 0 updates in %s frames: %s", what, f"{result.frames:,}", why)
