"""`rlpipe benchmark atari`: collect from Atari games and learn from their pixels, with one thread."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rlpipe.pipelines.algorithms.recipes import builder, find_recipe
from rlpipe.scripts.benchmarks.measure import Row, interleave, one_thread

Part = Callable[[], object]
Arm = tuple[Part, Part]
"""A function that collects a batch, and one that learns from it."""

CHANGES: dict[str, dict[str, Any]] = {
    "ppo": {},
    # Stable-Baselines3 skips the forward pass for random actions
    "dqn": {"buffer_size": 4_000, "warmup_frames": 1_024, "epsilon_start": 0.1},
}
"""Settings that differ from those of the recipes."""
BATCHES = {"ppo": 1, "dqn": 10}
"""Number of batches in a repetition."""


def run(*, against: Sequence[str], quick: bool, seeds: Sequence[int], **_: Any) -> Iterator[Row]:
    """Measure milliseconds per batch of the recipes: to collect it, to learn from it, and both.

    Stable-Baselines3 has the same settings and network sizes. It runs on the same games of ALE's vector environment,
    and also on those of its own wrappers if OpenCV is installed, which they need. With `quick` there are 2 repetitions
    in place of 7.

    Raises:
        ConfigError: ALE is not installed.
    """
    for algorithm in CHANGES:
        yield from measure(algorithm, "sb3" in against, repeats=2 if quick else 7, seed=seeds[0])


def measure(algorithm: str, sb3: bool, *, repeats: int, seed: int) -> list[Row]:
    """The three rows of recipe `ppo/atari` or `dqn/atari`."""
    recipe = find_recipe(f"{algorithm}/atari")
    config: Any = dataclasses.replace(recipe.config(), seed=seed, **CHANGES[algorithm])
    frames, batches = config.frames_per_batch, BATCHES[algorithm]
    with contextlib.ExitStack() as stack, one_thread():
        arms = dict(_arms(algorithm, config, sb3, stack))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        interleave({name: _timed(arm, batches, times[name]) for name, arm in arms.items()}, repeats=repeats)
    rows = []
    for part, seconds in (
        (f"collecting {frames} frames", lambda pair: pair[0]),
        (f"learning from {frames} frames", lambda pair: pair[1]),
        (f"both, {frames} frames", sum),
    ):
        # the first pair is from the warm-up
        samples = {name: [1e3 * seconds(pair) / batches for pair in pairs[1:]] for name, pairs in times.items()}
        row = Row(f"{algorithm}/atari, {part}", "ms a batch", samples, {"frames": frames, "batches": batches})
        row.extra["frames_per_second"] = {name: 1e3 * frames / median for name, median in row.medians.items()}
        rows.append(row)
    return rows


def _timed(arm: Arm, batches: int, times: list[tuple[float, float]]) -> Part:
    """A repetition that adds the seconds of collecting and of learning to `times`."""
    collect, learn = arm

    def repeat() -> None:
        collecting = learning = 0.0
        for _ in range(batches):
            started = time.perf_counter()
            collect()
            between = time.perf_counter()
            learn()
            collecting, learning = collecting + between - started, learning + time.perf_counter() - between
        times.append((collecting, learning))

    return repeat


def _arms(algorithm: str, config: Any, sb3: bool, stack: contextlib.ExitStack) -> Iterator[tuple[str, Arm]]:
    """Every arm by name; `stack` closes their environments."""
    yield "rlpipe", _ours(algorithm, config, stack)
    if not sb3:
        return
    from rlpipe.scripts.baselines.sb3_atari import SharedGames, own_games, sb3_dqn, sb3_ppo

    make: Any = {"dqn": sb3_dqn, "ppo": sb3_ppo}[algorithm]
    kinds: dict[str, Any] = {"sb3": SharedGames}
    if importlib.util.find_spec("cv2") is not None:
        kinds["sb3, its wrappers"] = own_games
    for name, games in kinds.items():
        env = games(config.env_id, config.num_envs, config.seed)
        stack.callback(env.close)
        yield name, make(config, env)


def _ours(algorithm: str, config: Any, stack: contextlib.ExitStack) -> Arm:
    pipeline = builder(algorithm)(config)
    stack.callback(pipeline.close)
    batches = iter(pipeline.collector)
    held: list[Any] = []

    def collect() -> None:
        held[:] = [next(batches)]

    for _ in range(getattr(config, "warmup_frames", 0) // config.frames_per_batch):
        collect()
        pipeline.learn(held[0])
    return collect, lambda: pipeline.learn(held[0])
