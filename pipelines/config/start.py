"""The run that a new run starts from, and which parts it takes of it. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.runs.read import read_run
from rlpipe.spelling import did_you_mean

PARTS = ("policy", "critic", "statistics")
"""What a run can take of another one: what acts, what the loss learns besides, and running normalisation."""
_NETWORKS = {"activation", "hidden", "layer_norm", "normalize_observation", "clip_observation", "observation_scale"}
_FIELDS = {
    "policy": {*_NETWORKS, "state_dependent_std", "dueling", "bins", "bin_low", "bin_high", "beta"},
    "critic": {*_NETWORKS, "normalize_reward", "shared_trunk"},
}
"""Config fields that fix the shape or the meaning of a part's numbers; both runs must agree in them.

All that concerns the environment may differ, as in a curriculum; its spaces must fit."""


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Args:
        path: the run or checkpoint, as the user named it.
        checkpoint: the checkpoint that it is.
        algorithm: of that run.
        config: of that run, as its `config.json` has it.
        take: the parts that were named; empty for all that there are.
    """

    path: str
    checkpoint: Path
    algorithm: str
    config: Mapping[str, Any]
    take: tuple[str, ...] = ()

    @property
    def noted(self) -> tuple[str, ...]:
        """The parts as `config.json` has them: none if all are taken."""
        return () if self.take == PARTS else self.take

    def takes(self, part: str) -> bool:
        """Whether a part is taken, if there is one."""
        return part in (self.take or PARTS)


def find_start(
    path: Path | str | None,
    take: Collection[str],
    config: Any,
    *,
    recipe: str,
    algorithm: str,
) -> Start | None:
    """Find what a run starts from; `None` without a path.

    The other run's environment and program are not loaded, so that no module of theirs needs trust.

    Args:
        path: RUN (its newest checkpoint), RUN@best, or a checkpoint.
        take: of `PARTS`; empty for all that there are.
        config: of the new run.
        recipe: its name, for messages.
        algorithm: of the new run.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: a part has another name; or all parts are taken of a run of another algorithm; or the networks have
            another shape or meaning.
    """
    chosen = _check_parts(take)
    if path is None:
        if chosen:
            raise ConfigError(f"take is {' '.join(chosen)}, which needs start-from, the run to take it of")
        return None
    try:
        described, checkpoint = read_run(Path(path), None)
    except CheckpointError as error:
        raise CheckpointError(f"start-from {path} cannot be used: {error}") from error
    if described["algorithm"] != algorithm and not chosen:
        raise ConfigError(
            f"start-from {path} is a run of {described['algorithm']}, and the recipe {recipe} trains {algorithm}; "
            "--take policy takes only its policy"
        )
    start = Start(str(path), checkpoint, described["algorithm"], described["config"], chosen)
    _check_fields(start, json.loads(json.dumps(dataclasses.asdict(config))))
    return start


def _check_parts(take: Collection[str]) -> tuple[str, ...]:
    """The parts in the order of `PARTS`."""
    named = [take] if isinstance(take, str) else list(take)
    if wrong := [each for each in named if each not in PARTS]:
        raise ConfigError(f"take is {wrong[0]!r}; {did_you_mean(str(wrong[0]), PARTS)}")
    return tuple(part for part in PARTS if part in named)


def _check_fields(start: Start, now: Mapping[str, Any]) -> None:
    """Refuse a run whose networks have another shape or meaning than those of a config in JSON form."""
    before = completed(start.config)
    for part, names in _FIELDS.items():
        for name in sorted(names & set(now) & set(before)) if start.takes(part) else ():
            if before[name] != now[name]:
                alone = part == "critic" and name not in _FIELDS["policy"]
                raise ConfigError(
                    f"{name} is {now[name]}, and start-from {start.path} was trained with {before[name]}; they must be "
                    f"the same{' to take its critic; --take policy takes only its policy' if alone else ''}"
                )
    if start.takes("critic") and not start.takes("policy") and now.get("shared_trunk"):
        raise ConfigError("take is critic with shared_trunk, whose layers belong to the policy; take policy as well")
