"""Evaluation: whole episodes under a policy, apart from training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform
from torchrl.envs.utils import ExplorationType

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, env_spec, make_env
from rlpipe.pipelines.envs.make import check_is_config
from rlpipe.pipelines.seeding import Seeds

MAX_ENVS = 100
MAX_EPISODE_STEPS = 10_000
"""Where an evaluation truncates episodes of an environment that has no limit of its own."""
_CHUNK = 32


@dataclass(frozen=True)
class Evaluation:
    """Raw results of an evaluation.

    Args:
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    def summary(self) -> dict[str, float]:
        """Number of episodes, and mean, (population) standard deviation, minimum and maximum of their returns."""
        values = np.asarray(self.returns)
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
        }


def evaluate(
    policy: TensorDictModuleBase,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    stochastic: bool = False,
    transforms: Sequence[Transform] = (),
) -> Evaluation:
    """Run whole episodes and keep the return and length of each.

    The episodes are divided over at most `MAX_ENVS` environments beforehand, so that short episodes have no better
    chance to be counted than long ones. Neither the policy nor any of its random generators is changed.

    Args:
        policy: any TensorDictModule that reads the environment's observation.
        env_config: the environment; its `num_envs` is not used.
        episodes: how many.
        seed: of the environments' resets, and of the actions if `stochastic`.
        stochastic: sample actions instead of taking the greedy ones.
        transforms: of the environment that the policy was trained in; they are copied, and learn nothing here.

    Raises:
        TypeError: the environment is no `EnvConfig`.
        ConfigError: no episodes, or an environment that cannot be had.
    """
    check_is_config(env_config)
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}; allowed is 1 or more")
    num_envs = min(episodes, MAX_ENVS)
    limit = env_config.max_episode_steps
    if limit is None and env_spec(env_config.env_id).max_episode_steps is None:
        limit = MAX_EPISODE_STEPS
    env = make_env(
        replace(env_config, num_envs=num_envs, backend="auto", max_episode_steps=limit),
        seed=seed,
        transforms=[transform.clone() for transform in transforms],
    )
    device = next((str(parameter.device) for parameter in policy.parameters()), "cpu")
    collector = SyncDataCollector(
        env,
        policy,
        frames_per_batch=num_envs * _CHUNK,
        policy_device=None if device == "cpu" else device,
        env_device=None if device == "cpu" else "cpu",
        exploration_type=ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
    )
    quotas = [episodes // num_envs + (index < episodes % num_envs) for index in range(num_envs)]
    with evaluating(policy, seed):
        try:
            return _run_episodes(collector, quotas)
        finally:
            collector.shutdown(raise_on_error=False)


def _run_episodes(collector: SyncDataCollector, quotas: list[int]) -> Evaluation:
    returns: list[list[float]] = [[] for _ in quotas]
    lengths: list[list[int]] = [[] for _ in quotas]
    missing = sum(quotas)
    for batch in collector:
        after = batch.get("next")
        for index, time in after.get("done").squeeze(-1).nonzero().tolist():
            if len(returns[index]) < quotas[index]:
                returns[index].append(float(after.get("episode_reward")[index, time]))
                lengths[index].append(int(after.get("step_count")[index, time]))
                missing -= 1
        if not missing:
            break
    return Evaluation(tuple(chain.from_iterable(returns)), tuple(chain.from_iterable(lengths)))


@contextlib.contextmanager
def evaluating(policy: TensorDictModuleBase, seed: int) -> Iterator[None]:
    """Put the policy into evaluation mode, with a generator of its own wherever it has one."""
    training = policy.training
    holders = [module for module in policy.modules() if isinstance(getattr(module, "generator", None), torch.Generator)]
    kept = [module.generator for module in holders]
    for index, module in enumerate(holders):
        module.generator = Seeds(seed).generator(f"module {index}", module.generator.device)
    policy.eval()
    try:
        with Seeds(seed).torch_seeded("global"):
            yield
    finally:
        policy.train(training)
        for module, generator in zip(holders, kept, strict=True):
            module.generator = generator
