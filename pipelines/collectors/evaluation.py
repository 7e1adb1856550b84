"""Evaluation: whole episodes of a policy, apart from training."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform, TransformedEnv
from torchrl.envs.utils import ExplorationType

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.eval_mode import evaluating
from rlpipe.pipelines.envs import EnvConfig, env_spec
from rlpipe.pipelines.envs.arguments.known import has_many_copies
from rlpipe.pipelines.envs.entries import Arrays
from rlpipe.pipelines.envs.frozen_transforms import SelectRows, append_frozen, size_for
from rlpipe.pipelines.envs.make import check_is_config, make_env_of_any_size
from rlpipe.pipelines.envs.tensor.env import TensorEnv, on_host
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

MAX_ENVS = 100
"""Most environments that an evaluation opens, if any number can be open at once."""
MAX_EPISODE_STEPS = 10_000
"""At which step an evaluation truncates episodes of an environment without a time limit."""
_CHUNK, _SHORT_CHUNK = 32, 4
"""Steps of each environment between two checks whether all episodes are done; steps beyond that are wasted."""
_SLOW = 10.0
"""Seconds without the end of an episode after which there is a warning."""
_LOG = logging.getLogger("rlpipe")
_WARNED: set[tuple[str, object]] = set()


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

    Episodes are divided in advance over at most `MAX_ENVS` streams, so that short ones are not more likely to be
    counted than long ones. Each stream has a seed that does not depend on how many environments play (except where an
    environment is vectorised itself, as CartPole is, and draws for all at once). Returns are the environment's own,
    whatever transforms make of rewards. Neither the policy nor any random generator is changed, including the global
    ones.

    Args:
        policy: any TensorDictModule that reads the environment's observation.
        env_config: the environment; its `num_envs` is not used.
        episodes: how many.
        seed: of the environments' resets, and of the actions if `stochastic`.
        stochastic: sample actions instead of taking the greedy ones.
        transforms: of the environment that the policy was trained in; they are copied, and do not learn here. If
            statistics have a row for each environment, `[n, ...]`, stream `i` uses row `i` modulo `n`.
        num_envs: how many environments are open at most; by default `MAX_ENVS` for environments of Gymnasium, ALE and
            rlpipe, and one for any other, of which perhaps only one can run. With fewer, streams take turns.

    Raises:
        TypeError: `env_config` is not an `EnvConfig`.
        ConfigError: no episodes, no environments, one that is not available, or a transform without statistics.
    """
    check_is_config(env_config)
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}; allowed is 1 or more")
    transforms = tuple(transforms)
    streams = min(episodes, MAX_ENVS)
    num_envs = size_for(transforms, min(streams, most_copies(env_config, num_envs)))
    limit, endless = env_config.max_episode_steps, is_endless(env_config)
    if endless:
        limit = MAX_EPISODE_STEPS
    config = replace(env_config, num_envs=num_envs, backend="auto", max_episode_steps=limit)
    quotas = [episodes // streams + (index < episodes % streams) for index in range(streams)]
    with GlobalRandom().kept(Seeds(seed).integer("process")), contextlib.ExitStack() as stack:
        env = make_env_of_any_size(config, seed=seed, device=_device_of(policy))
        stack.callback(env.close, raise_if_closed=False)
        selects = append_frozen(env, transforms)
        recorder = EpisodeRecorder(env.base_env, quotas)
        collector = _make_collector(env, policy, _SHORT_CHUNK if num_envs < streams else _CHUNK, stochastic=stochastic)
        stack.callback(collector.shutdown, raise_on_error=False)
        with evaluating(policy, seed):
            _play(collector, recorder, selects, env_config.env_id if endless else None)
    evaluation = recorder.evaluation()
    if endless and (cut := sum(length >= MAX_EPISODE_STEPS for length in evaluation.lengths)):
        _warn_once(
            "cut",
            env_config.env_id,
            f"has no time limit, and {cut} of {episodes} evaluation episodes were cut at {MAX_EPISODE_STEPS:,} steps: "
            "their returns are those up to there",
        )
    return evaluation


def is_endless(env_config: EnvConfig) -> bool:
    """Whether nothing but the environment's own rules ends its episodes."""
    return env_config.max_episode_steps is None and env_spec(env_config.env_id).max_episode_steps is None


def _warn_once(what: str, env_id: object, words: str) -> None:
    if (what, env_id) not in _WARNED:
        _WARNED.add((what, env_id))
        limit = "train with --max-episode-steps (max_episode_steps), which sets a limit"
        _LOG.warning("rlpipe: %s %s; %s", env_id, words, limit)


def most_copies(env_config: EnvConfig, asked: int | None = None, otherwise: int = 1) -> int:
    """How many environments an evaluation may open: as many as `asked`, which must be 1 or more, else `MAX_ENVS`.

    But `otherwise` if `asked` is `None` and it is not known that any number can be open at once.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"num_envs is {asked}; allowed is 1 or more")
    return asked or (MAX_ENVS if has_many_copies(env_config.env_id) else otherwise)


def _make_collector(
    env: TransformedEnv, policy: TensorDictModuleBase, steps: int, *, stochastic: bool
) -> SyncDataCollector:
    device = _device_of(policy)
    is_there = device == env.device
    return SyncDataCollector(
        env,
        policy,
        frames_per_batch=env.batch_size[0] * steps,
        policy_device=None if is_there else device,
        env_device=None if is_there else env.device,
        exploration_type=ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
    )


def _device_of(policy: TensorDictModuleBase) -> torch.device:
    return next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))


def _play(
    collector: SyncDataCollector, recorder: EpisodeRecorder, selects: Sequence[SelectRows], endless: object
) -> None:
    """Play each stream's quota, as many streams at once as there are environments.

    `endless` is the id of an environment without a time limit, to warn about.
    """
    base, batches, started = collector.env.base_env, iter(collector), time.monotonic()
    for first in range(0, len(recorder.returns), base.envs.num_envs):
        recorder.begin(first)
        if first:
            base.seeds.offset(first)
            for select in selects:
                select(first)
            collector.reset()
        while recorder.missing:
            next(batches)
            if endless is not None and time.monotonic() > started + _SLOW and not any(recorder.returns):
                steps = int(recorder.last["step_count"].max())
                _warn_once(
                    "slow",
                    endless,
                    f"has no time limit: no episode of an evaluation ended in {steps:,} steps, "
                    f"{_SLOW:.0f} seconds, and each continues to {MAX_EPISODE_STEPS:,} steps",
                )


class EpisodeRecorder:
    """Records the episodes that end in an environment, by its own rewards, whatever transforms make of them.

    Args:
        env: not yet stepped; its `advance` and `restart` are replaced by those of this class.
        quotas: how many episodes count, of each stream; each environment plays one stream at a time.
    """

    def __init__(self, env: VectorEnv | TensorEnv, quotas: Sequence[int]) -> None:
        self._env, self._advance, self._restart = env, env.advance, env.restart
        self._quotas = quotas
        self.returns: list[list[float]] = [[] for _ in quotas]
        self.lengths: list[list[int]] = [[] for _ in quotas]
        self.successes: list[list[float | None]] = [[] for _ in quotas]
        self.begin(0)
        env.advance, env.restart = self.advance, self.restart  # type: ignore[method-assign]

    def begin(self, first: int) -> None:
        """Record the streams from `first` on; the environments are about to be reset."""
        self._first = first
        self.missing = sum(self._quotas[first : first + self._env.envs.num_envs])
        self.last: Arrays = {}
        """The `next` entries of the last step."""
        self._ended = np.zeros(self._env.envs.num_envs, dtype=bool)
        self._env.infos.start()

    def advance(self, action: Any) -> Any:
        step: Any = self._advance(action)
        self.last = on_host(step) if isinstance(self._env, TensorEnv) else step
        self._ended = self.last["done"].copy()
        self._note(self._ended, dict(self._env.infos.take().successes))
        return step

    def restart(self, mask: Any = None) -> Any:
        """Reset it; where the step did not end the episode, a transform did."""
        if mask is not None and self.last:
            chosen = mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()
            self._note(chosen & ~self._ended, {})
            self._ended |= chosen
        return self._restart(mask)

    def evaluation(self) -> Evaluation:
        """What was recorded, stream after stream."""
        known = tuple(chain.from_iterable(self.successes))
        return Evaluation(
            tuple(chain.from_iterable(self.returns)),
            tuple(chain.from_iterable(self.lengths)),
            known if any(success is not None for success in known) else (),
        )

    def _note(self, ended: np.ndarray, successes: dict[int, float]) -> None:
        for place in np.flatnonzero(ended).tolist():
            index = self._first + place
            if index < len(self._quotas) and len(self.returns[index]) < self._quotas[index]:
                self.returns[index].append(float(np.float32(self.last["episode_reward"][place])))
                self.lengths[index].append(int(self.last["step_count"][place]))
                self.successes[index].append(successes.get(place))
                self.missing -= 1
