"""Deep Q-learning with experience replay, Mnih et al. 2015; Double and dueling as options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import Categorical, LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.losses import DQNLoss, NStep, TargetUpdate
from rlpipe.losses.functional import Regression
from rlpipe.modules import MLP, Activation, DuelingHead, Initialization, QActor
from rlpipe.pipelines.build.collector import check_device, make_collector
from rlpipe.pipelines.build.environment import make_lives, make_training_env
from rlpipe.pipelines.build.networks import is_masked, make_explorer, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer, scheduled
from rlpipe.pipelines.build.pipeline import make_state
from rlpipe.pipelines.build.replay import can_keep_frames, make_frame_replay
from rlpipe.pipelines.checkpoints.state_checks import Kind
from rlpipe.pipelines.config.fields import LARGEST, MANY, number
from rlpipe.pipelines.config.groups import ExplorationConfig, LivesConfig, NetworkConfig, OptimizerConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.devices import check_memory
from rlpipe.pipelines.pipeline import Pipeline, Update
from rlpipe.pipelines.replay.image_buffer import ImageReplay
from rlpipe.pipelines.replay.state import replay_parts, transition_bytes, transition_kinds
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.update import gradient_step, off_policy, once


@dataclass(frozen=True)
class Config(ExplorationConfig, OptimizerConfig, NetworkConfig, LivesConfig, TrainConfig):
    """DQN, tuned to solve CartPole-v1 fast."""

    hidden: tuple[int, ...] = number((120, 84), at_least=1, at_most=16_384, at_most_numbers=100)
    """Sizes of the hidden layers."""
    activation: Activation = "relu"
    """Activation between layers."""
    initialization: Initialization = "default"
    """Of linear and convolutional layers; `default` is PyTorch's."""
    layer_norm: bool = True
    """Normalise each hidden layer before its activation; keeps Q-learning from diverging."""
    num_envs: int = number(32, at_least=1, at_most=1_000_000)
    """Environments that step together."""
    rollout_steps: int = number(8, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch."""
    replay: bool = True
    """Learn from minibatches of a replay buffer; without, from each batch as a whole, once."""
    updates: int = number(20, at_least=1, at_most=100_000)
    """Gradient steps a batch."""
    minibatch_size: int = number(256, at_least=1, at_most=10_000_000)
    """Samples of one gradient step, drawn uniformly from the buffer."""
    buffer_size: int = number(50_000, at_least=1, at_most=1_000_000_000)
    """Transitions that the replay buffer holds; the oldest go first."""
    replay_storage: Literal["transitions", "frames", "frames-on-disk"] = "transitions"
    """What it keeps: `frames` keeps each frame of stacked pixels once, not eight times; or does so on the disk."""
    warmup_frames: int = number(1_000, at_least=1, at_most=MANY)
    """Frames collected before the first gradient step."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount a step."""
    n_steps: int = number(3, at_least=1, at_most=1_000_000)
    """Steps whose rewards are summed before the bootstrap; within a batch of `rollout_steps`."""
    kind: Regression = "smooth_l1"
    """How the action value is regressed on its target."""
    double: bool = True
    """Choose the next action with the online network, value it with the target network."""
    dueling: bool = False
    """Split the last layer into a state value and advantages."""
    target_network: bool = True
    """Bootstrap from a slow copy of the network."""
    tau: float = number(0.05, above=0, at_most=1)
    """Share of the way that the target network moves in an update; 1 copies."""
    target_every: int = number(1, at_least=1, at_most=MANY)
    """Gradient steps from one update of the target network to the next."""
    max_grad_norm: float | None = number(10.0, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""
    max_grad_value: float | None = number(None, above=0, at_most=LARGEST)
    """Clamp each element of the gradient to this magnitude."""

    def validate(self) -> None:
        """The buffer holds a minibatch and the warm-up, a batch the n steps; Double needs a target network."""
        if self.replay:
            self._validate_replay()
        elif self.replay_storage != "transitions":
            raise ConfigError(f"replay_storage is {self.replay_storage!r}, which needs replay to be True")
        if self.n_steps > self.rollout_steps:
            raise ConfigError(f"n_steps is {self.n_steps}; allowed is at most {self.rollout_steps}, the rollout_steps")
        if self.double and not self.target_network:
            raise ConfigError("double is True, which needs target_network to be True; set one or the other")

    def is_off_policy(self) -> bool:
        """With replay it is."""
        return self.replay

    def to_act(self) -> Config:
        """See `TrainConfig.to_act`; there need be no room for the replay buffer."""
        return replace(super().to_act(), replay=False, replay_storage="transitions")

    def _validate_replay(self) -> None:
        for name, value in (("minibatch_size", self.minibatch_size), ("warmup_frames", self.warmup_frames)):
            if value > self.buffer_size:
                raise ConfigError(f"{name} is {value}; allowed is at most {self.buffer_size}, the buffer_size")
        frames = self.num_envs * self.rollout_steps
        if frames > self.buffer_size:
            raise ConfigError(
                f"buffer_size is {self.buffer_size}; allowed is {frames} or more, the frames of a batch (num_envs * "
                "rollout_steps)"
            )
        if self.warmup_frames > self.total_frames:
            raise ConfigError(
                f"warmup_frames is {self.warmup_frames}; allowed is at most {self.total_frames}, the total_frames"
            )


def make_q_actor(config: Config, env: EnvBase) -> QActor:
    """The greedy actor over a Q network.

    Raises:
        ConfigError: the environment's actions are not Discrete.
    """
    if not isinstance(env.action_spec, Categorical):
        raise ConfigError(f"env_id is {config.env_id!r}, whose actions are a Box; DQN needs Discrete actions, try ppo")
    features, actions = config.hidden[-1], int(env.action_spec.space.n)
    dueling = DuelingHead(features, actions, config.initialization)
    head = dueling if config.dueling else MLP(features, actions, (), initialization=config.initialization)
    return QActor(nn.Sequential(*make_trunk(config, env), head), env.action_spec, is_masked(env))


def build(config: Config) -> Pipeline:
    """Put DQN together.

    Raises:
        ConfigError: the environment or the device cannot be had, or do not fit the config.
    """
    device, seeds = check_device(config), Seeds(config.seed)
    env = make_training_env(config, seeds)
    with seeds.torch_seeded("initialization"):
        actor = make_q_actor(config, env)
    explorer = make_explorer(config, env, seeds.generator("exploration", device))
    policy = TensorDictSequential(actor, explorer)
    loss = DQNLoss(actor, kind=config.kind, double=config.double, target_network=config.target_network, n_step=True)
    buffer = make_buffer(config, env, loss, seeds, device) if config.replay else None
    kinds = transition_kinds(env, loss.in_keys)
    learn_from, parts = make_learning(config, loss.to(device), buffer, kinds)
    lives, look_ahead = make_lives(config, env), NStep(gamma=config.gamma, n=config.n_steps)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        numbered = buffer.number(batch) if isinstance(buffer, ImageReplay) else batch
        scalars = learn_from(look_ahead(lives(numbered)))
        explorer.advance(batch)
        return scalars.set("epsilon", torch.tensor(explorer.epsilon))

    collector = make_collector(config, env, policy, config.num_envs * config.rollout_steps)
    return Pipeline(collector, learn, policy, make_state(policy, env, seeds, **parts), tuple(env.transform))


def make_buffer(config: Config, env: EnvBase, loss: DQNLoss, seeds: Seeds, device: torch.device) -> ReplayBuffer:
    """The replay buffer, empty.

    Raises:
        ConfigError: there is no room for it, or its frames are to be kept and the observations are no stacks of frames.
    """
    if config.replay_storage == "transitions":
        size = config.buffer_size * transition_bytes(env, loss.in_keys)
        frames = " or --replay-storage frames" if can_keep_frames(env) else ""
        way_out = f"take a smaller --buffer-size{frames}"
        check_memory(f"buffer_size is {config.buffer_size}, which takes", size, device, way_out)
        storage = LazyTensorStorage(config.buffer_size, device=device)
        return ReplayBuffer(
            storage=storage, batch_size=config.minibatch_size, generator=seeds.generator("replay", device)
        )
    return make_frame_replay(
        env,
        loss.in_keys,
        num_envs=config.num_envs,
        buffer_size=config.buffer_size,
        minibatch_size=config.minibatch_size,
        device=device,
        on_disk=config.replay_storage == "frames-on-disk",
        generator=seeds.generator("replay"),
    )


def make_learning(
    config: Config, loss: DQNLoss, buffer: ReplayBuffer | None, kinds: Mapping[Any, Kind]
) -> tuple[Update, dict[str, Any]]:
    """What is learned from a batch, with replay or without; and the parts of it that a checkpoint holds."""
    frames = config.num_envs * config.rollout_steps
    warmup = config.warmup_frames if config.replay else 1
    learning_batches = -(-config.total_frames // frames) - -(-warmup // frames) + 1
    optimizer, schedule = make_optimizer(config, loss.q_network.parameters(), learning_batches, frames)
    target, replay = None, {}
    if loss.target_network is not None:
        target = TargetUpdate(loss.q_network, loss.target_network, tau=config.tau, every=config.target_every)
    after = [target] if target is not None else []
    update = gradient_step(
        loss,
        optimizer,
        max_norm=config.max_grad_norm,
        max_value=config.max_grad_value,
        after=after,
        execution=config.execution,
    )
    learn = once(update, keys=loss.in_keys)
    if buffer is not None:
        learn = off_policy(buffer, update, updates=config.updates, warmup=warmup, keys=loss.in_keys)
        replay = replay_parts(buffer, kinds)
    parts = {"loss": loss, "optimizer": optimizer, "target": target, "schedule": schedule, **replay}
    return scheduled(learn, optimizer, schedule), parts
