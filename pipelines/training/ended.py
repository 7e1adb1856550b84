"""How the run in a folder ended, if it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.checkpoints.checkpoint import check_identity, identity, load_checkpoint
from rlpipe.pipelines.checkpoints.durable_files import DAMAGE
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.training.result import Result


def read_end(folder: Path, algorithm: str, config: Any) -> tuple[Result, Evaluation | None, bool]:
    """The result of the run in a folder, its final evaluation, and whether a listener ended it.

    A run that is not finished has no final evaluation.
    """
    result, rule, newest = Result(), StoppingRule(), newest_checkpoint(folder)
    if newest is None:
        return result, None, False
    try:
        check_identity(newest, identity(algorithm, dataclasses.asdict(config)))
        load_checkpoint(newest, {"progress": result, "stopping": rule})
        row = read_lines(folder / layout.EVALUATIONS)[-1]
        final = Evaluation.from_json(row)
        ended = row["final"] is True and row["frames"] == result.frames and final.returns
        return result, final if ended else None, rule.until is not None
    except (CheckpointError, *DAMAGE):
        # resuming the run reports the error
        return Result(), None, False
