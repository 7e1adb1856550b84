"""`rlpipe train RECIPE --seeds 0-9 --jobs 2`: several seeds side by side, one table of their progress and results."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.pipelines.runs.layout import CONFIG
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.live_view import history
from rlpipe.scripts.display.progress import can_draw
from rlpipe.scripts.display.run_stats import Facts
from rlpipe.scripts.seeds.progress_table import LiveTable, NoTable, PlainTable, Seed, Seeds, write_line
from rlpipe.scripts.seeds.results import Jobs, describe, read_seeds

if TYPE_CHECKING:
    from rlpipe.pipelines.algorithms.recipes import Recipe
    from rlpipe.pipelines.config.train import TrainConfig
    from rlpipe.pipelines.training.signals import Interruption
    from rlpipe.scripts.cli.train_options import Options
    from rlpipe.scripts.seeds.job import Message
    from rlpipe.scripts.seeds.processes import Processes
    from rlpipe.scripts.seeds.ray_tasks import RayTasks

_POLL = 0.1


def main(recipe: Recipe, options: Options[TrainConfig], arguments: Sequence[str], weights: Path | None) -> int:
    """Train all seeds and print their results; 1 if a seed failed.

    Args:
        recipe: to train by.
        options: of `rlpipe train`, with seeds or jobs among them.
        arguments: that they were read from.
        weights: a checkpoint to begin with.

    Raises:
        ConfigError: options that do not go together, or what no seed can be trained with.
        InterruptedRunError: by Ctrl-C or SIGTERM; says how to go on with each run.
    """
    from rlpipe.pipelines.training.signals import Interruption

    seeds, at_once = _check(options, arguments)
    address = options.config.ray_address
    if at_once is None:
        # of the cluster whose tasks the seeds are; each is an ordinary run there
        options = replace(options, config=replace(options.config, ray_address=None))
    jobs = Jobs(recipe, options, weights, seeds)
    with contextlib.closing(_engine(options.config, at_once, address)) as engine, Interruption() as interruption:
        try:
            with interruption.held_back():
                _Training(jobs, engine, interruption, options).run()
        except KeyboardInterrupt:
            pass
        for seed, why in sorted(jobs.failed.items()):
            write_line(f"rlpipe: error: seed {seed} failed: {printable(why)}")
        if interruption.signal is not None:
            raise InterruptedRunError(jobs.way_on(interruption.word), interruption.exit_code)
    row = jobs.row()
    if options.json:
        print(json.dumps(jobs.as_json(row)))
    elif row is not None:
        print(describe(jobs.finished, row))
    return 1 if jobs.failed else 0


def read_jobs(text: str) -> int | None:
    """How many seeds at once; `None` for `ray`.

    Raises:
        ConfigError: it is neither a number nor `ray`.
    """
    if text.strip().lower() == "ray":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ConfigError(f"jobs is {text!r}; expected how many seeds to train at once, 1 or more, or ray")
    return int(text)


class _Training:
    """Starts the jobs, shows what they tell, and passes a signal on."""

    def __init__(
        self, jobs: Jobs, engine: Processes | RayTasks, interruption: Interruption, options: Options[TrainConfig]
    ) -> None:
        self._jobs, self._engine, self._interruption = jobs, engine, interruption
        self._waiting, self._stopping, self._first_refusal = deque(jobs.seeds), False, ""
        config, recipe = jobs.config, jobs.recipe.name
        self._seeds = Seeds(f"{recipe} on {config.env_id}", {seed: _unknown(config, seed) for seed in jobs.seeds})
        self._board: LiveTable | PlainTable | NoTable
        if options.quiet:
            self._board = NoTable()
        elif can_draw():
            from rich.console import Console

            self._board = LiveTable(self._seeds, Console(stderr=True))
            interruption.announce = self._board.announce
        else:
            self._board = PlainTable(self._seeds)

    def run(self) -> None:
        """Until all have ended.

        Raises:
            ConfigError: what was refused in the same words would be so for every seed.
        """
        try:
            while self._engine.busy or (self._waiting and not self._stopping):
                self._start()
                for seed, message in self._engine.messages(_POLL):
                    self._add(seed, message)
                self._board.draw()
                if self._interruption.signal is not None and not self._stopping:
                    self._stopping = True
                    self._engine.stop()
                if self._first_refusal and not self._engine.busy:
                    raise ConfigError(self._first_refusal)
        finally:
            self._board.close()

    def _start(self) -> None:
        while self._waiting and self._engine.free and not self._stopping and not self._first_refusal:
            seed = self._waiting.popleft()
            job = self._jobs.job(seed)
            self._engine.start(job)
            self._seeds.all[seed].facts.folder = Path(job.folder)

    def _add(self, seed: int, message: Message) -> None:
        from rlpipe.scripts.seeds.job import progress_of

        known = self._seeds.all[seed]
        if self._stopping and "died" in message:
            # one that had not come to training has no other way to stop
            message = {"interrupted": message["died"]}
        self._jobs.add(seed, message)
        if "begun" in message:
            known.begun = True
            self._board.tell(seed)
        elif "note" in message:
            if message["note"]:
                self._board.announce(f"seed {seed}: {printable(message['note'])}")
        elif "folder" in message:
            known.facts.folder = self._jobs.folder(seed)
        elif "progress" in message:
            self._first_refusal = ""
            known.facts.add(progress_of(message), time.monotonic())
        else:
            known.ended = next(how for key, how in _ENDED.items() if key in message)
            if message.get("refused") and not any(each.facts.now for each in self._seeds.all.values()):
                self._first_refusal = self._first_refusal or message["failed"]
            self._board.tell(seed)


_ENDED = {"finished": "finished", "failed": "failed", "died": "failed", "interrupted": "stopped"}


def _unknown(config: TrainConfig, seed: int) -> Seed:
    return Seed(Facts(f"seed {seed}", Path(), config.total_frames, config.curve_window, time.monotonic(), history))


def _check(options: Options[TrainConfig], arguments: Sequence[str]) -> tuple[list[int], int | None]:
    """The seeds, and how many at once.

    Raises:
        ConfigError: options that do not go together.
    """
    if options.seeds is None:
        raise ConfigError(f"--jobs {options.jobs} is how many of several seeds to train at once; add --seeds 0-9")
    if any(argument.split("=")[0] == "--seed" for argument in arguments):
        raise ConfigError("--seed names one seed and --seeds several; give one of them")
    if options.watch:
        raise ConfigError("--watch shows one run, and the table of --seeds is live without it; leave it out")
    seeds, at_once = read_seeds(options.seeds), read_jobs(options.jobs or "1")
    if at_once is None and options.config.collector == "ray":
        raise ConfigError(
            "--jobs ray and --collector ray would wait for one another's room on the cluster; take --jobs 1 with "
            "--collector ray, or --jobs ray alone"
        )
    parent = options.run_dir
    if parent is not None:
        if (parent / CONFIG).exists():
            raise ConfigError(f"run-dir {parent} is a run folder; with --seeds it is one to make a run in for each")
        for seed in seeds:
            if (parent / str(seed)).exists():
                raise ConfigError(
                    f"run-dir {parent / str(seed)} exists already; nothing was overwritten, name a new one"
                )
    return seeds, at_once


def _engine(config: TrainConfig, at_once: int | None, address: str | None) -> Processes | RayTasks:
    if at_once is None:
        from rlpipe.scripts.seeds.ray_tasks import RayTasks

        processes = 1 + (config.num_collectors if config.collector == "processes" else 0)
        return RayTasks(address, config.threads * processes, config.device)
    from rlpipe.scripts.seeds.processes import Processes

    return Processes(at_once)
