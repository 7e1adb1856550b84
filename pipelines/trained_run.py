"""What `rlpipe.train` returns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.formatting import statistics
from rlpipe.pipelines.config.environment import ALIASES
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs import layout
from rlpipe.pipelines.runs.journal import read_lines

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A run that has ended.

    Args:
        folder: of the run.
        evaluation: of the greedy policy after training.
        summary: what `rlpipe train --json` prints.
        env: an environment that `config.json` cannot name, as `load` takes it.
    """

    folder: Path
    evaluation: Evaluation
    summary: Mapping[str, Any] = field(hash=False)
    env: Any = field(default=None, compare=False)

    @classmethod
    def of(cls, summary: Mapping[str, Any], options: Mapping[str, Any]) -> TrainedRun:
        """The run that a summary is of, from the options of `rlpipe.train`."""
        folder = Path(summary["run"])
        found = Evaluation.from_json(read_lines(folder / layout.EVALUATIONS)[-1])
        return cls(folder, found, summary, _object_in(options, summary["env_id"]))

    @functools.cached_property
    def agent(self) -> Agent:
        """What the run has learned, see `rlpipe.load`; loaded when it is first used."""
        from rlpipe.pipelines.agents.load import load  # noqa: PLC0415 - training needs none of it

        return load(self.folder, env=self.env)

    def __getstate__(self) -> dict[str, Any]:
        # an agent cannot be sent to another process, and is loaded there; nor may objects be
        return {name: value for name, value in vars(self).items() if name not in ("agent", "env")}

    def __repr__(self) -> str:
        summary, found = self.summary, statistics(self.evaluation.summary())
        of = f"{summary['recipe']} on {summary['env_id']}, seed {summary['seed']}"
        return (
            f"<{of}: evaluation return {found['mean']} +- {found['std']} over {len(self.evaluation.returns)} episodes, "
            f"{summary['frames']:,} frames, {self.folder}>"
        )

    def _repr_png_(self) -> bytes | None:
        """The curve, as a notebook shows it."""
        curve = self.folder / layout.CURVE
        return curve.read_bytes() if curve.is_file() else None


def _object_in(options: Mapping[str, Any], env_id: str) -> Any:
    """The environment, if it or one of its wrappers is an object, which this process still has."""
    env, wrappers = (
        next((options[each] for each in names if options.get(each) is not None), None) for names in ALIASES.items()
    )
    if wrappers is not None and not all(isinstance(each, str) for each in wrappers):
        from rlpipe.pipelines.envs import EnvConfig  # noqa: PLC0415

        return EnvConfig(env_id if env is None else env, kwargs=options.get("env_kwargs") or {}, wrappers=wrappers)
    return None if isinstance(env, str) else env
