"""Evaluation: whole episodes under a policy, apart from training."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torchrl.envs import Transform, TransformedEnv
from torchrl.envs.utils import ExplorationType

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, env_spec, make_env
from rlpipe.pipelines.envs.guard import Arrays
from rlpipe.pipelines.envs.held import hold, size_for
from rlpipe.pipelines.envs.make import check_is_config
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

MAX_ENVS = 100
MAX_EPISODE_STEPS = 10_000
"""Where an evaluation truncates episodes of an environment that has no limit of its own."""
_CHUNK = 32
_OWN = frozenset(vars(nn.Module()))


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
    chance to be counted than long ones; their returns are the environment's own, whatever transforms make of rewards.
    Neither the policy nor any random generator is changed, the process's own included.

    Args:
        policy: any TensorDictModule that reads the environment's observation.
        env_config: the environment; its `num_envs` is not used.
        episodes: how many.
        seed: of the environments' resets, and of the actions if `stochastic`.
        stochastic: sample actions instead of taking the greedy ones.
        transforms: of the environment that the policy was trained in; they are copied, and learn nothing here. Of
            statistics for each environment, `[n, ...]`, environment `i` takes row `i` modulo `n`.

    Raises:
        TypeError: the environment is no `EnvConfig`.
        ConfigError: no episodes, an environment that is not available, or a transform without statistics.
    """
    check_is_config(env_config)
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}; allowed is 1 or more")
    transforms = tuple(transforms)
    num_envs = size_for(transforms, min(episodes, MAX_ENVS))
    limit = env_config.max_episode_steps
    if limit is None and env_spec(env_config.env_id).max_episode_steps is None:
        limit = MAX_EPISODE_STEPS
    config = replace(env_config, num_envs=num_envs, backend="auto", max_episode_steps=limit)
    quotas = [episodes // num_envs + (index < episodes % num_envs) for index in range(num_envs)]
    with GlobalRandom().kept(Seeds(seed).integer("process")), contextlib.ExitStack() as stack:
        env = make_env(config, seed=seed)
        stack.callback(env.close, raise_if_closed=False)
        hold(env, transforms, policy)
        tally = Tally(env.base_env, quotas)
        collector = _make_collector(env, policy, stochastic=stochastic)
        stack.callback(collector.shutdown, raise_on_error=False)
        with evaluating(policy, seed):
            for _ in collector:
                if not tally.missing:
                    break
    return Evaluation(tuple(chain.from_iterable(tally.returns)), tuple(chain.from_iterable(tally.lengths)))


def _make_collector(env: TransformedEnv, policy: TensorDictModuleBase, *, stochastic: bool) -> SyncDataCollector:
    device = next((str(parameter.device) for parameter in policy.parameters()), "cpu")
    return SyncDataCollector(
        env,
        policy,
        frames_per_batch=env.batch_size[0] * _CHUNK,
        policy_device=None if device == "cpu" else device,
        env_device=None if device == "cpu" else "cpu",
        exploration_type=ExplorationType.RANDOM if stochastic else ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
    )


class Tally:
    """Takes note of the episodes that end in an environment, by its own rewards, whatever transforms make of them.

    Args:
        env: whose `advance` and `restart` are listened to; not yet stepped.
        quotas: episodes that count, for each of the environments in it.
    """

    def __init__(self, env: VectorEnv, quotas: Sequence[int]) -> None:
        self._advance, self._restart = env.advance, env.restart
        self._quotas, self.missing = quotas, sum(quotas)
        self.returns: list[list[float]] = [[] for _ in quotas]
        self.lengths: list[list[int]] = [[] for _ in quotas]
        self.last: Arrays = {}
        """What the last step led to."""
        self._ended = np.zeros(len(quotas), dtype=bool)
        env.advance, env.restart = self.advance, self.restart  # type: ignore[method-assign]

    def advance(self, action: np.ndarray) -> Arrays:
        """Step the environment."""
        self.last = self._advance(action)
        self._ended = self.last["done"].copy()
        self._note(self._ended)
        return self.last

    def restart(self, mask: np.ndarray | None = None) -> Arrays:
        """Reset it; where it has not begun anew by itself, a transform ended the episode."""
        if mask is not None and self.last:
            self._note(mask & ~self._ended)
            self._ended |= mask
        return self._restart(mask)

    def _note(self, ended: np.ndarray) -> None:
        for index in np.flatnonzero(ended).tolist():
            if len(self.returns[index]) < self._quotas[index]:
                self.returns[index].append(float(np.float32(self.last["episode_reward"][index])))
                self.lengths[index].append(int(self.last["step_count"][index]))
                self.missing -= 1


@contextlib.contextmanager
def evaluating(policy: TensorDictModuleBase, seed: int) -> Iterator[None]:
    """Put the policy into evaluation mode, with a generator of its own wherever it has one; put all back afterwards."""
    modules = list(policy.modules())
    modes = [module.training for module in modules]
    kept = [_State(module) for module in modules]
    try:
        _reseed(modules, Seeds(seed))
        policy.eval()
        with Seeds(seed).torch_seeded("global"):
            yield
    finally:
        # from the outside in, because `train` passes a mode on
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.train(mode)
        for state in kept:
            state.put_back()


def _reseed(modules: list[nn.Module], seeds: Seeds) -> None:
    """Give modules new generators, of whichever kind they have."""
    holders: list[Any] = [each for each in modules if isinstance(getattr(each, "generator", None), torch.Generator)]
    for index, module in enumerate(holders):
        module.generator = seeds.generator(f"module {index}", module.generator.device)
    for index, module in enumerate(modules):
        for name, value in list(vars(module).items()):
            seed = seeds.integer(f"{name} {index}")
            if isinstance(value, torch.Generator) and name != "generator":
                vars(module)[name] = torch.Generator(value.device).manual_seed(seed)
            elif isinstance(value, np.random.Generator):
                vars(module)[name] = np.random.default_rng(seed)
            elif isinstance(value, random.Random):
                vars(module)[name] = random.Random(seed)


class _State:
    """What a module has beside its parameters and submodules: buffers, counters, generators."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        # one that has not seen its input yet is made by its first call, in whatever mode
        self._unmade = isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        self._attributes = {name: value for name, value in vars(module).items() if name not in _OWN}
        self._buffers = dict(module._buffers)
        held = () if self._unmade else (*self._attributes.values(), *self._buffers.values())
        self._contents = [(each, each.detach().clone()) for each in held if isinstance(each, Tensor)]

    def put_back(self) -> None:
        """Make the module what it was."""
        if self._unmade:
            return
        own = vars(self._module)
        for name in [name for name in own if name not in _OWN and name not in self._attributes]:
            del own[name]
        own.update(self._attributes)
        self._module._buffers.clear()
        self._module._buffers.update(self._buffers)
        with torch.no_grad():
            for tensor, content in self._contents:
                if not torch.equal(tensor, content):
                    tensor.copy_(content)
