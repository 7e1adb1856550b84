"""The TorchRL baseline with a hand-written loop, as in TorchRL's own scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torchrl.data import Categorical, LazyTensorStorage, MultiStep, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.envs import EnvBase
from torchrl.modules import EGreedyModule
from torchrl.objectives import LossModule, TargetNetUpdater
from torchrl.objectives.value import GAE
from torchrl.objectives.value.functional import reward2go

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.pipelines.build.networks import make_actor, make_critic, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer
from rlpipe.pipelines.build.q_network import make_q_network
from rlpipe.pipelines.pipeline import Pipeline, Update
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.seeding import Seeds
from rlpipe.scripts.baselines.torchrl_parts import (
    StockKind,
    stock_actor,
    stock_collector,
    stock_critic,
    stock_env,
    stock_loss,
    stock_q_actor,
    stock_target,
    stock_update,
)

_SAME = {
    "backend": "auto",
    "max_episode_steps": None,
    "reward_shaping": "none",
    "normalize_observation": False,
    "normalize_reward": False,
    "device": "cpu",
    "epsilon_schedule": "linear",
    "replay": True,
    "target_network": True,
    "max_grad_value": None,
    "baseline": False,
    "normalize": "batch",
    "update_each_episode": False,
}
"""Values that a Config must have, if it has the field, so that TorchRL's parts do the same."""


@dataclass
class Parts:
    """The parts of one algorithm, for the loop here and for the trainer classes."""

    env: EnvBase
    policy: TensorDictModuleBase
    loss: LossModule
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler | None
    critic: TensorDictModuleBase | None = None
    explorer: EGreedyModule | None = None
    target: TargetNetUpdater | None = None


def build_stock(algorithm: str, config: Any, kind: StockKind | None = None) -> Pipeline:
    """Build an algorithm from TorchRL's parts, as a pipeline for the same loop.

    The networks start with the weights of the algorithm's own `build`. Exploration draws from PyTorch's global
    generator, as TorchRL's parts do; it is seeded here.

    Raises:
        ConfigError: TorchRL's parts do not support the config.
    """
    parts, frames = make_parts(algorithm, config, kind=kind), config.frames_per_batch
    learn = {"dqn": _replay, "reinforce": _episodes, "a2c": _rollouts, "ppo": _rollouts}[algorithm](config, parts)
    collector = stock_collector(parts.env, parts.policy, frames_per_batch=frames, total_frames=config.batches * frames)

    def learn_and_step(batch: TensorDictBase) -> TensorDictBase:
        scalars = learn(batch)
        if parts.schedule is not None and scalars["updates"]:
            parts.schedule.step()
        return scalars

    return Pipeline(collector, learn_and_step, parts.policy, {"loss": parts.loss})


def make_parts(algorithm: str, config: Any, *, full_critic: bool = False, kind: StockKind | None = None) -> Parts:
    """Make the parts of an algorithm; with `full_critic`, REINFORCE has a critic that learns."""
    for name, needed in _SAME.items():
        value = getattr(config, name, needed)
        if value != needed:
            raise ConfigError(f"{name} is {value!r}; the TorchRL baseline supports only {needed!r}")
    seeds = Seeds(config.seed)
    torch.manual_seed(seeds.integer("exploration"))
    # the range that NumPy and Gymnasium accept
    env = stock_env(config.env_id, config.num_envs, seed=seeds.integer("environments") % 2**31, kind=kind)
    with seeds.torch_seeded("initialization"):
        if algorithm == "dqn":
            return _dqn_parts(config, env)
        return _actor_critic_parts(algorithm, config, env, full_critic)


def _dqn_parts(config: Any, env: EnvBase) -> Parts:
    actor = stock_q_actor(make_q_network(config, env), env.action_spec_unbatched)
    explorer = EGreedyModule(
        env.action_spec_unbatched,
        eps_init=float(config.epsilon_start),
        eps_end=float(config.epsilon_end),
        annealing_num_steps=config.epsilon_frames,
    )
    loss = stock_loss("dqn", config, actor)
    frames = config.frames_per_batch
    learning = config.batches - ceil_div(config.warmup_frames, frames) + 1
    optimizer, schedule = make_optimizer(config, loss.parameters(), learning, frames)
    policy = TensorDictSequential(actor, explorer)
    target = stock_target(loss, config)
    return Parts(env, policy, loss, optimizer, schedule, explorer=explorer, target=target)


def _actor_critic_parts(algorithm: str, config: Any, env: EnvBase, full_critic: bool) -> Parts:
    if not isinstance(env.action_spec, Categorical) and not config.state_dependent_std:
        raise ConfigError("state_dependent_std is False; the TorchRL baseline supports only True for Box actions")
    trunk = make_trunk(config, env)
    # only the network of the actor is used, so the generator does not matter
    network = make_actor(config, env, trunk, torch.Generator()).network
    if algorithm == "reinforce" and not full_critic:
        # TorchRL's loss needs a critic; this one is neither trained nor used
        value: nn.Module = nn.Linear(env.observation_spec["observation"].shape[-1], 1)
    else:
        value = make_critic(
            config, trunk if getattr(config, "shared_trunk", False) else make_trunk(config, env)
        ).network
    actor, critic = stock_actor(network, env.action_spec), stock_critic(value)
    loss = stock_loss(algorithm, config, actor, critic)
    learns = actor if algorithm == "reinforce" and not full_critic else loss
    optimizer, schedule = make_optimizer(config, learns.parameters(), config.batches, config.frames_per_batch)
    return Parts(env, actor, loss, optimizer, schedule, critic=critic)


def _replay(config: Any, parts: Parts) -> Update:
    explorer, ahead = parts.explorer, look_ahead(config)
    assert explorer is not None
    buffer = ReplayBuffer(storage=LazyTensorStorage(config.buffer_size), batch_size=config.minibatch_size)
    update = stock_update(parts.loss, parts.optimizer, max_norm=config.max_grad_norm, target=parts.target)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        buffer.extend(ahead(batch).reshape(-1))
        explorer.step(batch.numel())
        if len(buffer) < config.warmup_frames:
            return _mean([])
        return _mean([update(buffer.sample()) for _ in range(config.updates)])

    return learn


def look_ahead(config: Any) -> MultiStep:
    """TorchRL's n-step returns, cut at the end of a batch like rlpipe's."""
    ahead = MultiStep(gamma=config.gamma, n_steps=config.n_steps)
    # then done and terminated are those of the last of the n steps, so that termination there cuts the bootstrap
    ahead.done_keys = ()
    return ahead


def _rollouts(config: Any, parts: Parts) -> Update:
    """A2C and PPO: advantages once, then epochs of minibatches; A2C has a single epoch and minibatch."""
    advantage = make_gae(config, parts)
    epochs, buffer = getattr(config, "epochs", 1), epoch_buffer(config)
    whole = getattr(config, "minibatch_size", config.frames_per_batch) == config.frames_per_batch
    update = stock_update(parts.loss, parts.optimizer, max_norm=config.max_grad_norm)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        with torch.no_grad():
            batch = advantage(batch)
        if whole:
            return _mean([update(batch.reshape(-1)) for _ in range(epochs)])
        buffer.extend(batch.reshape(-1))
        return _mean([update(minibatch) for _ in range(epochs) for minibatch in buffer])

    return learn


def make_gae(config: Any, parts: Parts) -> GAE:
    """TorchRL's GAE with a config's settings."""
    # PPO normalises each minibatch, inside its loss; TorchRL's A2C can normalise only here, over the batch
    over_batch = not hasattr(config, "clip") and getattr(config, "normalize_advantage", False)
    return GAE(
        gamma=config.gamma,
        lmbda=getattr(config, "lmbda", 1.0),
        value_network=parts.critic,
        average_gae=over_batch,
        vectorized=True,
    )


def epoch_buffer(config: Any) -> ReplayBuffer:
    """A buffer for one batch, which yields minibatches; that of A2C is the whole batch."""
    frames = config.frames_per_batch
    size = getattr(config, "minibatch_size", frames)
    return ReplayBuffer(storage=LazyTensorStorage(frames), sampler=SamplerWithoutReplacement(), batch_size=size)


def _episodes(config: Any, parts: Parts) -> Update:
    """REINFORCE on the episodes that end in a batch.

    TorchRL has no part that keeps unfinished episodes from one batch to the next; rlpipe's `EpisodeBuffer` does it.
    """
    episodes = EpisodeBuffer(["observation", "action", ("next", "reward")])
    update = stock_update(_WithoutCritic(parts.loss), parts.optimizer, max_norm=config.max_grad_norm)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        finished = episodes.extend(batch if batch.ndim > 1 else batch.unsqueeze(0))
        if not finished:
            return _mean([])
        steps: TensorDictBase = torch.cat(finished)
        returns = reward2go(steps.get(("next", "reward")), steps.get(("next", "done")), config.gamma)
        steps.set("advantage", (returns - returns.mean()) / (returns.std(correction=0) + 1e-8))
        steps.set("value_target", returns)
        return _mean([update(steps)])

    return learn


class _WithoutCritic(nn.Module):
    """A `ReinforceLoss` with only the actor's term."""

    def __init__(self, loss: LossModule) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, batch: TensorDictBase) -> TensorDictBase:
        return self.loss(batch).select("loss_actor")


def _mean(terms: Sequence[TensorDictBase]) -> TensorDictBase:
    mean: TensorDictBase = torch.stack(list(terms)).mean(0) if terms else TensorDict()
    return mean.set("updates", torch.tensor(len(terms)))
