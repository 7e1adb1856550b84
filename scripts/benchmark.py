"""`rlpipe benchmark WHAT`: measure rlpipe side by side with TorchRL and Stable-Baselines3."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import multiprocessing
import random
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import ConfigError, InterruptedRunError
from rlpipe.scripts.benchmarks.measure import Row
from rlpipe.scripts.cli.help import listed
from rlpipe.scripts.cli.options import parse
from rlpipe.scripts.cli.seeds import read_seeds
from rlpipe.scripts.main import run
from rlpipe.spelling import did_you_mean

BENCHMARKS = {
    "collect": "the time of a step of 1 to 1024 environments with a policy",
    "update": "the time of one update of each algorithm: forward, backward, clipping, optimiser, target",
    "solve": "frames and training seconds until CartPole-v1 is solved and stays solved",
    "scale": "speed and memory with 1 to 4096 environments, and with replay buffers of up to a million transitions",
    "atari": "the time to collect from Atari games and to learn from their pixels",
    "collectors": "the time to collect in this process, in one and two other processes, and on Ray",
    "start": "the time of imports, of options, of tables, and of a short run as a whole",
}
OTHERS = ("torchrl", "sb3")
RACERS = ("torchrl", "torchrl-trainer", "torchrl-same-step", "torchrl-serial", "torchrl-parallel", "sb3")
"""What `solve` can compare with."""
ALGORITHMS = ("ppo", "dqn", "a2c", "reinforce")
"""What `solve` trains."""
SEEDS = 10
"""Number of seeds that `solve` draws."""

USAGE = """usage: rlpipe benchmark WHAT [options]

Measure rlpipe, TorchRL and Stable-Baselines3 side by side.
rlpipe benchmark WHAT --help lists the options.
"""


@dataclass(frozen=True)
class Options:
    """Options of `rlpipe benchmark`."""

    against: str = ",".join(OTHERS)
    """What to compare with: torchrl, sb3, both separated by a comma, or none."""
    quick: bool = False
    """Take about a minute: fewer cases and repetitions."""
    seeds: str = "0"
    """Seed of environments and networks; of several, such as 0-9 or 0,3,7, the first."""
    out: Path | None = None
    """The new JSON file, with a plot beside it; by default runs/benchmark/WHAT-TIME.json."""
    json: bool = False
    """Print the content of the JSON file in place of the table."""


@dataclass(frozen=True)
class SolveOptions(Options):
    """Options of `rlpipe benchmark solve`."""

    against: str = "torchrl,torchrl-trainer,sb3"
    """What to compare with, separated by commas, or none; torchrl-same-step, torchrl-serial and torchrl-parallel are
    allowed too."""
    quick: bool = False
    """Take about a minute: PPO only, one seed, half the frames."""
    seeds: str = ""
    """Seeds, such as 0-9 or 0,3,7; by default ten random ones."""
    seed_of_seeds: int | None = None
    """Seed from which the ten seeds are drawn; by default a random one, which is printed."""
    algorithms: str = ",".join(ALGORITHMS)
    """Algorithms, separated by commas."""
    frames: int | None = None
    """Frames of every run; by default 50 000 for ppo and dqn, 100 000 for a2c and reinforce."""


def main(arguments: Sequence[str]) -> int:
    """Measure, write the results, and print the table."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("\n".join([USAGE, *listed(list(BENCHMARKS.items()), 15)]))
        return 0
    name, *rest = arguments
    if name.startswith("-"):
        raise ConfigError(f"the benchmark comes before the options, got {name!r}; try: rlpipe benchmark collect {name}")
    name = name.lower() if name.lower() in BENCHMARKS else name
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark is called {name!r}; {did_you_mean(name, BENCHMARKS)}")
    kind = SolveOptions if name == "solve" else Options
    options = parse(kind, rest, prog=f"rlpipe benchmark {name}", description=f"Measure {BENCHMARKS[name]}.")
    asked = any(each.split("=")[0] == "--against" for each in rest)
    against = _available(read_names("against", options.against, RACERS if name == "solve" else OTHERS), asked=asked)
    more = _read_solve(options) if isinstance(options, SolveOptions) else {}
    seeds, drawn = _find_seeds(options)

    from rlpipe.scripts.benchmarks.report import default_path, prepare

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
    table = _measure_and_write(path, described, more)
    print(json.dumps(json.loads(path.read_text())) if options.json else f"{table}\n\nwritten to {path}")
    return 0


def _measure_and_write(path: Path, described: dict[str, Any], more: dict[str, Any]) -> str:
    """Measure, write the JSON and the plot, and return the table.

    Raises:
        InterruptedRunError: by Ctrl-C; the cases measured until then are written.
    """
    from rlpipe.scripts.benchmarks.report import describe, write

    if "seed_of_seeds" in described:
        drawn = f"{', '.join(map(str, described['seeds']))}; drawn from --seed-of-seeds {described['seed_of_seeds']}"
        _say("solve", f"seeds {drawn}")
    arms = [each.replace("-", " ") for each in described["against"]]
    rows: list[Row] = []
    try:
        for row in _measure(described["benchmark"], arms, described["quick"], described["seeds"], **more):
            rows.append(row)
            _say(described["benchmark"], str(row))
    except KeyboardInterrupt:
        # processes of environments may not have started far enough to be closed
        for process in multiprocessing.active_children():
            process.terminate()
        if not rows:
            raise InterruptedRunError("interrupted; nothing was measured yet") from None
        write(path, rows, {**described, "interrupted": True})
        raise InterruptedRunError(f"interrupted; what was measured so far is in {path}") from None
    if not rows:
        raise ConfigError(f"{described['benchmark']} had nothing to measure; see the lines above")
    write(path, rows, {**described, "interrupted": False})
    return describe(rows)


def read_names(option: str, text: str, allowed: Sequence[str]) -> list[str]:
    """Read names such as `torchrl,sb3`, and return them in the order of `allowed`; `none` returns none.

    Raises:
        ConfigError: a name is not allowed.
    """
    words = [] if text.lower() == "none" else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in allowed:
            raise ConfigError(f"{option} has {word!r}; {did_you_mean(word, allowed)}")
    return [name for name in allowed if name in words]


def _read_solve(options: SolveOptions) -> dict[str, Any]:
    """The arguments that only `solve` takes."""
    algorithms = read_names("algorithms", options.algorithms, ALGORITHMS)
    if not algorithms:
        raise ConfigError(f"algorithms is {options.algorithms!r}; expected some of {', '.join(ALGORITHMS)}")
    if options.frames is not None and options.frames < 1:
        raise ConfigError(f"frames is {options.frames}; allowed is 1 or more")
    if options.seeds and options.seed_of_seeds is not None:
        raise ConfigError("seeds and seed_of_seeds are both given; expected one of them")
    return {"algorithms": algorithms, "frames": options.frames}


def _find_seeds(options: Options) -> tuple[list[int], dict[str, int]]:
    """The seeds, and what they were drawn from if they were drawn."""
    if options.seeds or not isinstance(options, SolveOptions):
        # environments of Stable-Baselines3 take seeds of 32 bits
        return read_seeds(options.seeds, at_most=2**32 - 1), {}
    source = secrets.randbelow(2**31) if options.seed_of_seeds is None else options.seed_of_seeds
    return random.Random(source).sample(range(2**31), 1 if options.quick else SEEDS), {"seed_of_seeds": source}


def _available(against: list[str], *, asked: bool) -> list[str]:
    """Leave out Stable-Baselines3 if it is not installed; an error if the user `asked` for it."""
    if "sb3" not in against or importlib.util.find_spec("stable_baselines3") is not None:
        return against
    install = 'pip install "rlpipe[benchmark]"'
    if asked:
        raise ConfigError(f"against has 'sb3', and Stable-Baselines3 is not installed: {install}")
    print(f"rlpipe: note: without sb3; Stable-Baselines3 is not installed: {install}", file=sys.stderr)
    return [name for name in against if name != "sb3"]


def _measure(name: str, against: Sequence[str], quick: bool, seeds: Sequence[int], **more: Any) -> Iterator[Row]:
    module = importlib.import_module(f"rlpipe.scripts.benchmarks.{name}")
    rows: Iterator[Row] = module.run(
        against=against, quick=quick, seeds=seeds, progress=functools.partial(_say, name), **more
    )
    return rows


def _say(name: str, line: str) -> None:
    print(f"rlpipe: {name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(["benchmark", *sys.argv[1:]]))
