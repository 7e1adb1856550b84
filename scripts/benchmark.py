"""`rlpipe benchmark WHAT`: how fast rlpipe is, measured side by side with TorchRL and Stable-Baselines3."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import multiprocessing
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.pipelines.names import nearest
from rlpipe.scripts.benchmarks.measure import InterruptedMeasurement, Row
from rlpipe.scripts.main import run
from rlpipe.scripts.options import parse

BENCHMARKS = {
    "collect": "a step of 1 to 1024 environments with a policy: microseconds, and frames a second",
    "update": "one update of each algorithm: forward, backward, clipping, optimiser, target",
    "solve": "frames and training seconds until CartPole-v1 is solved",
    "scale": "speed and memory from 1 to 4096 environments, and replay buffers of up to a million transitions",
    "atari": "collecting from Atari games and learning from their pixels; an extra",
    "collectors": "rounds collected here, in one and two other processes, and on Ray",
    "breakdown": "where the time of a step and of an update of rlpipe goes, part by part",
}
OTHERS = ("torchrl", "sb3")

USAGE = f"""usage: rlpipe benchmark WHAT [options]

Measure rlpipe, TorchRL and Stable-Baselines3 side by side; rlpipe benchmark WHAT --help lists the options.

{chr(10).join(f"  {name:<10} {summary}" for name, summary in BENCHMARKS.items())}
"""


@dataclass(frozen=True)
class Options:
    """What `rlpipe benchmark` takes."""

    against: str = ",".join(OTHERS)
    """Whom to compare with: torchrl, sb3, both with a comma between them, or none; breakdown has rlpipe alone."""
    quick: bool = False
    """A look of a minute or so: fewer cases and repetitions."""
    seeds: str = "0,1,2,3,4"
    """Seeds with commas between them; solve takes all, the others the first."""
    out: Path | None = None
    """The JSON file to write, with its plot beside it; by default runs/benchmark/WHAT-TIME.json."""
    json: bool = False
    """Print the content of the JSON file instead of the table."""


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
    options = parse(Options, rest, prog=f"rlpipe benchmark {name}", description=f"Measure {BENCHMARKS[name]}.")
    seeds = read_seeds(options.seeds)
    asked = any(each.split("=")[0] == "--against" for each in rest)
    against = _available(read_against(options.against), asked=asked)

    from rlpipe.scripts.benchmarks.report import default_path, describe, prepare, write

    path = options.out or default_path(name)
    prepare(path)
    described = {
        "benchmark": name,
        "command": shlex.join(["rlpipe", "benchmark", *arguments]),
        "quick": options.quick,
        "against": against,
        "seeds": seeds,
    }
    try:
        rows = _measure(name, against, options.quick, seeds)
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


def read_against(text: str) -> list[str]:
    """Arms from the command line, such as `torchrl,sb3`; `none` for none of them.

    Raises:
        ConfigError: there is no such arm.
    """
    words = [] if text.lower() == "none" else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in OTHERS:
            raise ConfigError(f"against has {word!r}; {_hint(word, OTHERS)}")
    return [name for name in OTHERS if name in words]


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


def _measure(name: str, against: Sequence[str], quick: bool, seeds: Sequence[int]) -> list[Row]:
    module = importlib.import_module(f"rlpipe.scripts.benchmarks.{name}")
    # sets a level of its own when it is imported, which not every benchmark has done yet
    importlib.import_module("torchrl")
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    rows: list[Row] = module.run(
        against=against,
        quick=quick,
        seeds=seeds,
        progress=lambda line: print(f"rlpipe: {name}: {line}", file=sys.stderr, flush=True),
    )
    if not rows:
        raise ConfigError(f"{name} had nothing to measure; see the lines above")
    return rows


if __name__ == "__main__":
    sys.exit(run(["benchmark", *sys.argv[1:]]))
