"""The runs of several seeds: their jobs, the result of each, and the result over all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.formatting import column, duration, statistics
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.runs.layout import CONFIG
from rlpipe.pipelines.runs.loggers.loggers import check_loggers, check_option
from rlpipe.pipelines.runs.new_folder import default_folder
from rlpipe.scripts.cli.seeds import spell
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.reports.rows import as_json

if TYPE_CHECKING:
    from rlpipe.pipelines.algorithms.recipes import Recipe
    from rlpipe.pipelines.config.start import Start
    from rlpipe.scripts.cli.train_options import Options
    from rlpipe.scripts.reports.groups import Row
    from rlpipe.scripts.seeds.job import Job, Message


def describe(finished: Mapping[int, Mapping[str, Any]], row: Row, waited: float) -> str:
    """Format the results of the finished seeds, the result over all of them, and the seconds waited for them."""
    first = next(iter(finished.values()))
    where = "" if first["eval_env_id"] == first["env_id"] else f", evaluated on {first['eval_env_id']}"
    rows = [("seed", "evaluation return", "frames", "training", "in all", "run")]
    for seed, summary in finished.items():
        found = statistics(summary["evaluation"], " ")
        score, frames = f"{found['mean']} +- {found['std']}", f"{summary['frames']:,}"
        training, waited_for = (f"{duration(each)} s" for each in (summary["seconds"], summary["waited"]["all"]))
        rows.append((str(seed), score, frames, training, waited_for, printable(summary["run"])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{first['recipe']} on {first['env_id']}{where}, {len(finished)} seed{'s' * (len(finished) > 1)}"]
    lines += [
        "  ".join(["", *(cell.rjust(width) for cell, width in zip(cells[:-1], widths, strict=False)), cells[-1]])
        for cells in rows
    ]
    interval = "one seed has no interval"
    iqm, *ends = column([each for each in (row.iqm, row.low, row.high) if each is not None], " ")
    if ends:
        interval = f"95 % interval {ends[0]} to {ends[1]}"
    lines += [f"  evaluation return {iqm} (IQM of the seeds; {interval})", f"  time {duration(waited)} s in all"]
    return "\n".join(lines)


class Jobs:
    """The seeds to train, and their results."""

    def __init__(self, recipe: Recipe, options: Options[Any], start: Start | None, seeds: Sequence[int]) -> None:
        self.recipe, self.seeds, self.config = recipe, seeds, options.config
        self._source = recipe.described()
        self._options, self._start = options, start
        self._loggers = check_loggers(check_option(options.logger))
        self.folders: dict[int, Path] = {}
        self._hosts: dict[int, str] = {}
        self._made: set[int] = set()
        self.finished: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}

    def job(self, seed: int) -> Job:
        """The job of a seed that is about to start."""
        from rlpipe.scripts.seeds.job import Job

        parent, start = self._options.run_dir, self._start
        folder = default_folder(self.recipe.name, seed) if parent is None else parent / str(seed)
        self.folders[seed] = folder
        return Job(
            self.recipe.name,
            self.recipe.algorithm,
            self._source,
            dataclasses.asdict(dataclasses.replace(self.config, seed=seed)),
            str(folder),
            numbered=parent is None,
            weights=None if start is None else str(start.checkpoint),
            start_from=None if start is None else start.path,
            take=() if start is None else start.take,
            loggers=self._loggers,
        )

    def add(self, seed: int, message: Message) -> None:
        """Record where a job runs, its folder, or how it ended."""
        if message.get("begun"):
            self._hosts[seed] = message["begun"]
        elif "folder" in message:
            # a number may have been added to the name
            self.folders[seed] = self.folders[seed].with_name(Path(message["folder"]).name)
            self._made.add(seed)
        elif "finished" in message:
            self.finished[seed] = {**message["finished"], "run": self._place(seed)}
        elif "failed" in message:
            self.failed[seed] = message["failed"]
        elif "died" in message:
            saved = seed in self._made and newest_checkpoint(self.folders[seed]) is not None
            on = f"; continue with: {self._resume(seed)}" if saved else ""
            self.failed[seed] = f"{message['died']}{on}"

    def how_to_continue(self, word: str) -> str:
        """The commands that continue the seeds that neither finished nor failed."""
        left = [seed for seed in self.seeds if seed not in self.finished and seed not in self.failed]
        begun = [seed for seed in left if seed in self._hosts or self._is_written(seed)]
        lines = [f"{word}; {len(self.finished)} of {len(self.seeds)} seeds had finished"]
        lines += [f"  continue seed {seed} with: {self._resume(seed)}" for seed in begun]
        if never := [seed for seed in left if seed not in begun]:
            lines.append(f"  not started: --seeds {spell(never)}")
        return "\n".join(lines)

    def row(self) -> Row | None:
        """The row of `rlpipe table` for the finished seeds; `None` if no seed finished."""
        import numpy as np

        from rlpipe.pipelines.runs.origin import Origin
        from rlpipe.scripts.reports.groups import summarise
        from rlpipe.scripts.reports.run_results import FinishedRun

        # in the order of the option, not in that of their ends
        self.finished = {seed: self.finished[seed] for seed in self.seeds if seed in self.finished}
        self.failed = {seed: self.failed[seed] for seed in self.seeds if seed in self.failed}
        config = json.loads(json.dumps(dataclasses.asdict(self.config)))
        del config["seed"]
        origin = Origin(defaults=(self._source or {}).get("defaults"))
        if self._start is not None:
            origin = dataclasses.replace(origin, start_from=self._start.path, take=self._start.noted)
        runs = [
            FinishedRun(
                folder=Path(found["run"]),
                recipe=self.recipe.name,
                algorithm=self.recipe.algorithm,
                config=config,
                seed=seed,
                frames=found["frames"],
                seconds=found["seconds"],
                score=found["evaluation"]["mean"],
                success_rate=found["evaluation"].get("success_rate"),
                curve=np.empty((0, 3)),
                origin=origin,
            )
            for seed, found in sorted(self.finished.items())
        ]
        return summarise(runs) if runs else None

    def as_json(self, row: Row | None, waited: float) -> dict[str, Any]:
        """The results as `--json` prints them, with the seconds waited for them."""
        failed = [{"seed": seed, "error": why, "run": self._place(seed)} for seed, why in self.failed.items()]
        return {
            "recipe": self.recipe.name,
            "env_id": self.config.env_id,
            "summaries": list(self.finished.values()),
            "failed": failed,
            "row": None if row is None else as_json(row),
            "waited": round(waited, 3),
        }

    def _resume(self, seed: int) -> str:
        folder = self.folders[seed]
        if self._is_here(seed):
            return self.recipe.resume(folder)
        return f"{self.recipe.resume(folder.absolute())}, on {self._hosts[seed]}"

    def _place(self, seed: int) -> str:
        """The run folder, after the name of its machine if that is another one."""
        folder = self.folders[seed]
        return str(folder) if self._is_here(seed) else f"{self._hosts[seed]}:{folder.absolute()}"

    def _is_here(self, seed: int) -> bool:
        return seed in self.folders and (seed not in self._hosts or self._is_written(seed))

    def _is_written(self, seed: int) -> bool:
        return seed in self.folders and (self.folders[seed] / CONFIG).is_file()
