"""`rlpipe benchmark WHAT`: how fast rlpipe is, measured side by side with TorchRL and Stable-Baselines3."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import multiprocessing
import random
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.scripts.benchmarks.measure import InterruptedMeasurement, Row
from rlpipe.scripts.cli.options import parse
from rlpipe.scripts.main import run
from rlpipe.spelling import nearest

BENCHMARKS = {
    "collect": "a step of 1 to 1024 environments with a policy: microseconds, and frames a second",
    "update": "one update of each algorithm: forward, backward, clipping, optimiser, target",
    "solve": "frames and training seconds until CartPole-v1 is solved for good",
    "scale": "speed and memory from 1 to 4096 environments, and replay buffers of up to a million transitions",
    "atari": "collecting from Atari games and learning from their pixels; an extra",
    "collectors": "rounds collected here, in one and two other processes, and on Ray",
}
OTHERS = ("torchrl", "sb3")
RACERS = ("torchrl", "torchrl-trainer", "torchrl-same-step", "torchrl-serial", "torchrl-parallel", "sb3")
"""Whom `solve` can compare with."""
ALGORITHMS = ("ppo", "dqn", "a2c", "reinforce")
"""What `solve` trains."""
SEEDS = 10
"""That `solve` draws."""

USAGE = f"""usage: rlpipe benchmark WHAT [options]

Measure rlpipe, TorchRL and Stable-Baselines3 side by side; rlpipe benchmark WHAT --help lists the options.

{chr(10).join(f"  {name:<10} {summary}" for name, summary in BENCHMARKS.items())}
"""


@dataclass(frozen=True)
class Options:
    """What `rlpipe benchmark` takes."""

    against: str = ",".join(OTHERS)
    """Whom to compare with: torchrl, sb3, both with a comma between them, or none."""
    quick: bool = False
    """A look of a minute or so: fewer cases and repetitions."""
    seeds: str = "0"
    """Of environments and networks; the first, if there are several with commas between them."""
    out: Path | None = None
    """The JSON file to write, with its plot beside it; by default runs/benchmark/WHAT-TIME.json."""
    json: bool = False
    """Print the content of the JSON file instead of the table."""


@dataclass(frozen=True)
class SolveOptions(Options):
    """What `rlpipe benchmark solve` takes."""

    against: str = "torchrl,torchrl-trainer,sb3"
    """Whom to compare with, with commas between them, or none; there are torchrl-same-step, torchrl-serial and
    torchrl-parallel as well."""
    quick: bool = False
    """A look of a minute or so: PPO alone, one seed, half the frames."""
    seeds: str = ""
    """Seeds with commas between them; by default ten that are drawn, so that nobody has chosen them."""
    seed_of_seeds: int | None = None
    """What the ten seeds are drawn from; by default the operating system's choice, which is printed."""
    algorithms: str = ",".join(ALGORITHMS)
    """Algorithms with commas between them."""
    frames: int | None = None
    """Frames that every run trains for; by default 50 000 with ppo and dqn, 100 000 with a2c and reinforce."""


def main(arguments: Sequence[str]) -> int:
    """Measure, write what was measured, and print the table."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    name, *rest = arguments
    if name.startswith("-"):
        raise ConfigError(f"the benchmark comes before the options, got {name!r}; try: rlpipe benchmark collect {name}")
    if name.lower() in BENCHMARKS:
        name = name.lower()
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark is called {name!r}; {_hint(name, tuple(BENCHMARKS))}")
    kind = SolveOptions if name == "solve" else Options
    options = parse(kind, rest, prog=f"rlpipe benchmark {name}", description=f"Measure {BENCHMARKS[name]}.")
    asked = any(each.split("=")[0] == "--against" for each in rest)
    against = _available(read_names("against", options.against, RACERS if name == "solve" else OTHERS), asked=asked)
    more = _read_solve(options) if isinstance(options, SolveOptions) else {}
    seeds, drawn = _find_seeds(options)

    from rlpipe.scripts.benchmarks.report import default_path, describe, prepare, write

    path = options.out or default_path(name)
    prepare(path)
    described = {
        "benchmark": name,
        "command": shlex.join(["rlpipe", "benchmark", *arguments]),
        "quick": options.quick,
        "against": against,
        "seeds": seeds,
        **more,
        **drawn,
    }
    if drawn:
        told = ", ".join(map(str, seeds))
        print(f"rlpipe: solve: seeds {told}; drawn from --seed-of-seeds {drawn['seed_of_seeds']}", file=sys.stderr)
    arms = [each.replace("-", " ") for each in against]
    try:
        rows = _measure(name, arms, options.quick, seeds, **more)
    except InterruptedMeasurement as stopped:
        # environments in processes of their own may not have come so far that they could be closed
        for process in multiprocessing.active_children():
            process.terminate()
        if not stopped.rows:
            raise InterruptedRunError("interrupted; nothing had been measured yet") from None
        write(path, stopped.rows, {**described, "interrupted": True})
        raise InterruptedRunError(f"interrupted; what was measured so far is in {path}") from None
    write(path, rows, {**described, "interrupted": False})
    print(json.dumps(json.loads(path.read_text())) if options.json else f"{describe(rows)}\n\nwritten to {path}")
    return 0


def read_seeds(text: str) -> list[int]:
    """Seeds from the command line, such as `0,1,2`.

    Raises:
        ConfigError: one is no whole number from 0 to 2^32 - 1, or is there twice.
    """
    seeds = []
    for word in text.split(","):
        # what the environments of Stable-Baselines3 take as a seed has 32 bits
        if not (word.strip().isascii() and word.strip().isdigit()) or int(word) >= 2**32:
            raise ConfigError(f"seeds has {word!r}; expected whole numbers of 0 or more, below 2^32, such as 0,1,2")
        if int(word) in seeds:
            raise ConfigError(f"seeds has {int(word)} twice; each counts once")
        seeds.append(int(word))
    return seeds


def read_names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    """Names from the command line, such as `torchrl,sb3`, in the order of `allowed`; `none` for none of them.

    Raises:
        ConfigError: one is not allowed.
    """
    words = [] if text.lower() == "none" else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in allowed:
            raise ConfigError(f"{option} has {word!r}; {_hint(word, allowed)}")
    return [name for name in allowed if name in words]


def draw_seeds(source: int, number: int) -> list[int]:
    """So many different seeds that follow from `source`."""
    return random.Random(source).sample(range(2**31), number)


def _read_solve(options: SolveOptions) -> dict[str, Any]:
    """What `solve` is told that the others are not."""
    algorithms = read_names("algorithms", options.algorithms, ALGORITHMS)
    if not algorithms:
        raise ConfigError(f"algorithms is {options.algorithms!r}; expected some of {', '.join(ALGORITHMS)}")
    if options.frames is not None and options.frames < 1:
        raise ConfigError(f"frames is {options.frames}; allowed is 1 or more")
    if options.seeds and options.seed_of_seeds is not None:
        raise ConfigError("seeds and seed_of_seeds are both given; expected one of them")
    return {"algorithms": algorithms, "frames": options.frames}


def _find_seeds(options: Options) -> tuple[list[int], dict[str, int]]:
    """The seeds, and what they were drawn from if they were."""
    if options.seeds or not isinstance(options, SolveOptions):
        return read_seeds(options.seeds), {}
    source = secrets.randbelow(2**31) if options.seed_of_seeds is None else options.seed_of_seeds
    return draw_seeds(source, 1 if options.quick else SEEDS), {"seed_of_seeds": source}


def _available(against: list[str], *, asked: bool) -> list[str]:
    """`against` without Stable-Baselines3 where that is missing, unless somebody `asked` for it."""
    if "sb3" not in against or importlib.util.find_spec("stable_baselines3") is not None:
        return against
    install = 'pip install "rlpipe[benchmark]"'
    if asked:
        raise ConfigError(f"against has 'sb3', and Stable-Baselines3 is not installed: {install}")
    print(f"rlpipe: note: without sb3; Stable-Baselines3 is not installed: {install}", file=sys.stderr)
    return [name for name in against if name != "sb3"]


def _hint(word: str, allowed: Sequence[str]) -> str:
    near = nearest(word, allowed)
    return f"did you mean {near}?" if near else f"there are {', '.join(allowed)}"


def _measure(name: str, against: Sequence[str], quick: bool, seeds: Sequence[int], **more: Any) -> list[Row]:
    module = importlib.import_module(f"rlpipe.scripts.benchmarks.{name}")
    # sets a level of its own when it is imported, which not every benchmark has done yet
    importlib.import_module("torchrl")
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    rows: list[Row] = module.run(
        against=against,
        quick=quick,
        seeds=seeds,
        progress=lambda line: print(f"rlpipe: {name}: {line}", file=sys.stderr, flush=True),
        **more,
    )
    if not rows:
        raise ConfigError(f"{name} had nothing to measure; see the lines above")
    return rows


if __name__ == "__main__":
    sys.exit(run(["benchmark", *sys.argv[1:]]))
