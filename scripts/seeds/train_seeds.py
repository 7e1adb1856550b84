"""`rlpipe train RECIPE --seeds 0-9 --jobs 2`: train several seeds, with one table of their progress and results."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError, InterruptedRunError, exists_already
from rlpipe.pipelines.runs.layout import CONFIG
from rlpipe.scripts.cli.seeds import read_seeds
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.live_view import history
from rlpipe.scripts.display.run_stats import RunStats
from rlpipe.scripts.display.starting import can_draw
from rlpipe.scripts.seeds.progress_table import LiveTable, NoTable, PlainTable, Seed, SeedTable, write_line
from rlpipe.scripts.seeds.results import Jobs, describe

if TYPE_CHECKING:
    from rlpipe.pipelines.algorithms.recipes import Recipe
    from rlpipe.pipelines.config.run import SessionConfig
    from rlpipe.pipelines.config.start import Start
    from rlpipe.pipelines.training.signals import Interruption
    from rlpipe.scripts.cli.train_options import Options
    from rlpipe.scripts.seeds.job import Message
    from rlpipe.scripts.seeds.processes import Processes
    from rlpipe.scripts.seeds.ray_tasks import RayTasks

_POLL = 0.1


def main(recipe: Recipe, options: Options[Any], arguments: Sequence[str], start: Start | None) -> int:
    """Train all seeds, from what another run has learned if given, and print their results; 1 if a seed failed.

    Raises:
        ConfigError: options contradict each other, or no seed can be trained with them.
        InterruptedRunError: by Ctrl-C or SIGTERM; says how to continue each run.
    """
    began = time.monotonic()
    from rlpipe.pipelines.training.signals import Interruption

    seeds, at_once = _check(options, arguments)
    address = getattr(options.config, "ray_address", None)
    if at_once is None and address is not None:
        # the address is that of the cluster for the tasks; each run in it needs no Ray
        options = replace(options, config=replace(options.config, ray_address=None))
    jobs = Jobs(recipe, options, start, seeds)
    with contextlib.closing(_engine(options.config, at_once, address)) as engine, Interruption() as interruption:
        try:
            with interruption.held_back():
                _Training(jobs, engine, interruption, options).run()
        except KeyboardInterrupt:
            pass
        for seed, why in sorted(jobs.failed.items()):
            write_line(f"rlpipe: error: seed {seed} failed: {printable(why)}")
        if interruption.signal is not None:
            raise InterruptedRunError(jobs.how_to_continue(interruption.word), interruption.exit_code)
    row, waited = jobs.row(), time.monotonic() - began
    if options.json:
        print(json.dumps(jobs.as_json(row, waited)))
    elif row is not None:
        print(describe(jobs.finished, row, waited))
    return 1 if jobs.failed else 0


def read_jobs(text: str) -> int | None:
    """Read how many seeds to train at once; `None` for `ray`.

    Raises:
        ConfigError: `text` is neither a number nor `ray`.
    """
    if text.strip().lower() == "ray":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise ConfigError(f"jobs is {text!r}; expected how many seeds to train at once, 1 or more, or ray")
    return int(text)


class _Training:
    """Starts the jobs, shows their progress, and passes signals on to them."""

    def __init__(
        self, jobs: Jobs, engine: Processes | RayTasks, interruption: Interruption, options: Options[Any]
    ) -> None:
        self._jobs, self._engine, self._interruption = jobs, engine, interruption
        self._waiting, self._stopping, self._first_refusal = deque(jobs.seeds), False, ""
        from rlpipe.pipelines.config.run import settings_of

        config, recipe = settings_of(jobs.config), jobs.recipe.name
        self._seeds = SeedTable(f"{recipe} on {config.env_id}", {seed: _unknown(config, seed) for seed in jobs.seeds})
        self._table = NoTable() if options.quiet else PlainTable(self._seeds)
        if can_draw() and not options.quiet:
            from rich.console import Console

            self._table = LiveTable(self._seeds, Console(stderr=True))
            interruption.announce = self._table.announce

    def run(self) -> None:
        """Run until all jobs have ended.

        Raises:
            ConfigError: the first seed was refused before any training, as every other one would be.
        """
        try:
            while self._engine.busy or (self._waiting and not self._stopping):
                self._start()
                for seed, message in self._engine.messages(_POLL):
                    self._add(seed, message)
                self._table.draw()
                if self._interruption.signal is not None and not self._stopping:
                    self._stopping = True
                    self._engine.stop()
                if self._first_refusal and not self._engine.busy:
                    raise ConfigError(self._first_refusal)
        finally:
            self._table.close()

    def _start(self) -> None:
        while self._waiting and self._engine.free and not self._stopping and not self._first_refusal:
            seed = self._waiting.popleft()
            job = self._jobs.job(seed)
            self._engine.start(job)
            self._seeds.all[seed].stats.folder = Path(job.folder)

    def _add(self, seed: int, message: Message) -> None:
        from rlpipe.scripts.seeds.job import progress_of

        known = self._seeds.all[seed]
        if self._stopping and "died" in message:
            # a process that is stopped before training ends without a message
            message = {"interrupted": message["died"]}
        self._jobs.add(seed, message)
        if "begun" in message:
            known.begun = True
            self._table.report(seed)
        elif "note" in message:
            if message["note"]:
                self._table.announce(f"seed {seed}: {printable(message['note'])}")
        elif "folder" in message:
            known.stats.folder = self._jobs.folders[seed]
        elif "progress" in message:
            self._first_refusal = ""
            known.stats.add(progress_of(message), time.monotonic())
        else:
            known.ended = next(how for key, how in _ENDED.items() if key in message)
            if message.get("refused") and not any(each.stats.now for each in self._seeds.all.values()):
                self._first_refusal = self._first_refusal or message["failed"]
            self._table.report(seed)


_ENDED = {"finished": "finished", "failed": "failed", "died": "failed", "interrupted": "stopped"}


def _unknown(config: SessionConfig, seed: int) -> Seed:
    return Seed(RunStats(f"seed {seed}", Path(), config.total_frames, config.curve_window, time.monotonic(), history))


def _check(options: Options[Any], arguments: Sequence[str]) -> tuple[list[int], int | None]:
    """The seeds, and how many to train at once.

    Raises:
        ConfigError: options contradict each other.
    """
    if options.seeds is None:
        raise ConfigError(f"--jobs {options.jobs} is the number of seeds to train at once; add --seeds 0-9")
    if any(argument.split("=")[0] == "--seed" for argument in arguments):
        raise ConfigError("--seed names one seed and --seeds several; give one of them")
    if options.watch:
        raise ConfigError("--watch shows one run; --seeds shows a live table without it, leave it out")
    seeds, at_once = read_seeds(options.seeds), read_jobs(options.jobs or "1")
    if at_once is None and getattr(options.config, "collector", "local") == "ray":
        raise ConfigError(
            "--jobs ray and --collector ray would block each other on the cluster; use --jobs 1 with "
            "--collector ray, or --jobs ray alone"
        )
    parent = options.run_dir
    if parent is not None:
        if (parent / CONFIG).exists():
            raise ConfigError(f"run-dir {parent} is a run folder; with --seeds it must be a folder for several runs")
        for seed in seeds:
            if (parent / str(seed)).exists():
                raise exists_already("run-dir", parent / str(seed))
    return seeds, at_once


def _engine(config: Any, at_once: int | None, address: str | None) -> Processes | RayTasks:
    if at_once is None:
        from rlpipe.pipelines.config.run import settings_of
        from rlpipe.scripts.seeds.ray_tasks import RayTasks

        processes = 1 + (config.num_collectors if getattr(config, "collector", "local") == "processes" else 0)
        return RayTasks(address, settings_of(config).threads * processes, getattr(config, "device", "cpu"))
    from rlpipe.scripts.seeds.processes import Processes

    return Processes(at_once)
