"""The part of `rlpipe benchmark update` on SAC and TD3: a minibatch drawn from replay, and the update with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from rlpipe.pipelines.algorithms import sac, td3
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.scripts.baselines.sb3 import sb3_replay_updates
from rlpipe.scripts.benchmarks.measure import Row, interleave, repeated

ALGORITHMS: dict[str, Any] = {"sac": sac, "td3": td3}
ENV_ID, MINIBATCH, TRANSITIONS = "Pendulum-v1", 256, 10_000
_WARM = 3


def run(*, against: Sequence[str], seed: int, repeats: int, updates: int) -> Iterator[Row]:
    """Measure milliseconds per update with networks of 256-256, drawing the minibatch included."""
    for algorithm in ALGORITHMS:
        made = arms(algorithm, against=against, seed=seed, updates=updates)
        seconds = interleave(made, repeats=repeats, warmup=_WARM)
        samples = {name: [1e3 * each / updates for each in values] for name, values in seconds.items()}
        extra = {"algorithm": algorithm, "minibatch": MINIBATCH, "updates": updates}
        yield Row(f"{algorithm}, 256-256, minibatch {MINIBATCH} from replay", "ms an update", samples, extra)


def arms(algorithm: str, *, against: Sequence[str], seed: int, updates: int) -> dict[str, Callable[[], object]]:
    """Every arm by name, with `updates` updates in one call; rlpipe's time to draw alone is one of them.

    Raises:
        ConfigError: `sb3` is in `against` and not installed.
    """
    pipeline = _build(algorithm, seed, updates)
    batch = make_transitions(4 * 4, seed).reshape(4, 4)
    buffer = pipeline.state["replay"].buffer
    made: dict[str, Callable[[], object]] = {
        "rlpipe": lambda: pipeline.learn(batch),
        "rlpipe, drawing alone": repeated(buffer.sample, updates),
    }
    if "sb3" in against:
        transitions = make_transitions(TRANSITIONS, seed)
        made["sb3"] = sb3_replay_updates(
            algorithm, ENV_ID, transitions, minibatch=MINIBATCH, updates=updates, seed=seed
        )
    return made


def make_transitions(size: int, seed: int) -> TensorDict:
    """Random transitions `[size]` of Pendulum."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.zeros(size, 1, dtype=torch.bool)
    after = {"observation": torch.randn(size, 3, generator=draw), "reward": -torch.rand(size, 1, generator=draw)}
    after |= {"terminated": ends, "truncated": ends, "done": ends}
    observation, action = torch.randn(size, 3, generator=draw), 4 * torch.rand(size, 1, generator=draw) - 2
    return TensorDict({"observation": observation, "action": action, "next": after}).auto_batch_size_(1)


def _build(algorithm: str, seed: int, updates: int) -> Pipeline:
    """The recipe's own pipeline, with a replay buffer of random transitions."""
    module = ALGORITHMS[algorithm]
    pipeline: Pipeline = module.build(
        module.Config(env_id=ENV_ID, seed=seed, minibatch_size=MINIBATCH, updates=updates, warmup_frames=1)
    )
    pipeline.close()
    # in columns of four steps, as it collects
    pipeline.learn(make_transitions(TRANSITIONS, seed).reshape(-1, 4))
    return pipeline
