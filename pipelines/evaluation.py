"""Evaluation: whole episodes under a policy, apart from training."""

from __future__ import annotations

import contextlib
import logging
import time
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
from rlpipe.pipelines.envs.make import check_is_config, has_many_copies
from rlpipe.pipelines.seeding import Seeds

MAX_ENVS = 100
"""Environments of an evaluation, of a kind of which any number can be open at once."""
MAX_EPISODE_STEPS = 10_000
"""Where an evaluation truncates episodes of an environment that has no limit of its own."""
_CHUNK, _SHORT_CHUNK = 32, 4
"""Steps of each environment between two looks at whether all is done; what is stepped beyond is for nothing."""
_SLOW = 10.0
"""Seconds without an episode's end after which it is said that there is no hurry."""
_LOG = logging.getLogger("rlpipe")
_TOLD: set[tuple[str, object]] = set()


@dataclass(frozen=True)
class Evaluation:
    """Raw results of an evaluation.

    Args:
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
        successes: of each episode what the environment said in its last info as `is_success`, 0 or 1, or `None` where
            it said nothing; empty where it never does.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    successes: tuple[float | None, ...] = ()

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def success_rate(self) -> float | None:
        """Share of successes among the episodes of which the environment tells; `None` where it tells of none."""
        told = [success for success in self.successes if success is not None]
        return sum(told) / len(told) if told else None

    def summary(self) -> dict[str, float]:
        """Number of episodes, and mean, (population) standard deviation, minimum and maximum of their returns.

        Where the environment tells of successes, `success_rate` as well.
        """
        values = np.asarray(self.returns)
        rate = self.success_rate
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            **({} if rate is None else {"success_rate": rate}),
        }


def evaluate(
    policy: TensorDictModuleBase,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    stochastic: bool = False,
    transforms: Sequence[Transform] = (),
    num_envs: int | None = None,
) -> Evaluation:
    """Run whole episodes and keep the return and length of each.

    The episodes are divided beforehand, so that short ones have no better chance to be counted than long ones: over at
    most `MAX_ENVS` streams, each with a seed that does not depend on how many environments play them. Neither the
    policy nor any of its random generators is changed.

    Args:
        policy: any TensorDictModule that reads the environment's observation.
        env_config: the environment; its `num_envs` is not used.
        episodes: how many.
        seed: of the environments' resets, and of the actions if `stochastic`.
        stochastic: sample actions instead of taking the greedy ones.
        transforms: of the environment that the policy was trained in; they are copied, and learn nothing here.
        num_envs: how many environments are open at most; by default `MAX_ENVS` of those that Gymnasium, ALE and rlpipe
            bring along, and one of any other, of which perhaps no more can run. With fewer, streams wait their turn.

    Raises:
        TypeError: the environment is no `EnvConfig`.
        ConfigError: no episodes, no environments, or an environment that cannot be had.
    """
    check_is_config(env_config)
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}; allowed is 1 or more")
    streams = min(episodes, MAX_ENVS)
    num_envs = min(streams, most_copies(env_config, num_envs))
    limit, endless = env_config.max_episode_steps, is_endless(env_config)
    if endless:
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
        frames_per_batch=num_envs * (_CHUNK if num_envs == streams else _SHORT_CHUNK),
        policy_device=None if device == "cpu" else device,
        env_device=None if device == "cpu" else "cpu",
        exploration_type=ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
    )
    quotas = [episodes // streams + (index < episodes % streams) for index in range(streams)]
    with evaluating(policy, seed):
        try:
            evaluation = _run_episodes(collector, quotas, env_config.env_id if endless else None)
        finally:
            collector.shutdown(raise_on_error=False)
    if endless and (cut := sum(length >= MAX_EPISODE_STEPS for length in evaluation.lengths)):
        _tell_once(
            "cut",
            env_config.env_id,
            f"has no time limit, and {cut} of {episodes} evaluation episodes were cut at {MAX_EPISODE_STEPS:,} steps: "
            "their returns are those up to there",
        )
    return evaluation


def is_endless(env_config: EnvConfig) -> bool:
    """Whether nothing but the environment's own rules ends its episodes."""
    return env_config.max_episode_steps is None and env_spec(env_config.env_id).max_episode_steps is None


def _tell_once(what: str, env_id: object, words: str) -> None:
    if (what, env_id) not in _TOLD:
        _TOLD.add((what, env_id))
        _LOG.warning("rlpipe: %s %s; --max-episode-steps (max_episode_steps) sets a limit", env_id, words)


def most_copies(env_config: EnvConfig, asked: int | None = None, otherwise: int = 1) -> int:
    """How many environments an evaluation may open.

    Args:
        env_config: the environment.
        asked: so many, if not `None`.
        otherwise: so many, where it is not known that any number can be open at once.

    Raises:
        ConfigError: fewer than one is asked for.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"num_envs is {asked}; allowed is 1 or more")
    return asked or (MAX_ENVS if has_many_copies(env_config.env_id) else otherwise)


def _run_episodes(collector: SyncDataCollector, quotas: list[int], endless: object) -> Evaluation:
    """Play each stream's quota, as many streams at once as there are environments; `endless` names one without end."""
    returns: list[list[float]] = [[] for _ in quotas]
    lengths: list[list[int]] = [[] for _ in quotas]
    successes: list[list[float | None]] = [[] for _ in quotas]
    base, batches, started = collector.env.base_env, iter(collector), time.monotonic()
    for first in range(0, len(quotas), base.envs.num_envs):
        if first:
            base.seed_as(first)
            collector.reset()
        missing = sum(quotas[first : first + base.envs.num_envs])
        while missing:
            base.tell_successes()
            after = next(batches).get("next")
            told = {(place, step): success for step, place, success in base.take_successes()}
            for place, step in after.get("done").squeeze(-1).nonzero().tolist():
                index = first + place
                if index < len(quotas) and len(returns[index]) < quotas[index]:
                    returns[index].append(float(after.get("episode_reward")[place, step]))
                    lengths[index].append(int(after.get("step_count")[place, step]))
                    successes[index].append(told.get((place, step)))
                    missing -= 1
            if endless is not None and time.monotonic() > started + _SLOW and not any(returns):
                steps = int(after.get("step_count").max())
                _tell_once(
                    "slow",
                    endless,
                    f"has no time limit: no episode of an evaluation ended in {steps:,} steps, "
                    f"{_SLOW:.0f} seconds, and each goes on to {MAX_EPISODE_STEPS:,} steps",
                )
    known = tuple(chain.from_iterable(successes))
    return Evaluation(
        tuple(chain.from_iterable(returns)),
        tuple(chain.from_iterable(lengths)),
        known if any(success is not None for success in known) else (),
    )


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
