"""Proximal policy optimisation with the clipped surrogate, Schulman et al. 2017."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.losses.functional import Regression
from rlpipe.modules import Activation
from rlpipe.pipelines.build.collector import check_device, make_collector
from rlpipe.pipelines.build.environment import make_lives, make_training_env
from rlpipe.pipelines.build.networks import make_actor, make_critic, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer, scheduled
from rlpipe.pipelines.build.pipeline import make_state
from rlpipe.pipelines.config.fields import LARGEST, number
from rlpipe.pipelines.config.groups import ActorConfig, LivesConfig, OptimizerConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.update import gradient_step, on_policy


@dataclass(frozen=True)
class Config(OptimizerConfig, ActorConfig, LivesConfig, TrainConfig):
    """PPO, tuned to solve CartPole-v1 fast."""

    hidden: tuple[int, ...] = number((128,), at_least=1, at_most=16_384, at_most_numbers=100)
    """Sizes of the hidden layers."""
    activation: Activation = "relu"
    """Activation between layers."""
    lr: float = number(3e-3, above=0, at_most=LARGEST)
    """Learning rate at the start; high for the sake of CartPole, 3e-4 is a usual one."""
    num_envs: int = number(16, at_least=1, at_most=1_000_000)
    """Environments that step together."""
    rollout_steps: int = number(64, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch."""
    minibatch_size: int = number(128, at_least=1, at_most=10_000_000)
    """Samples of one gradient step."""
    epochs: int = number(4, at_least=1, at_most=100_000)
    """Passes over each batch."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount a step."""
    lmbda: float = number(0.95, at_least=0, at_most=1)
    """Of generalized advantage estimation."""
    clip: float = number(0.3, above=0, at_most=LARGEST)
    """How far the probability ratio may leave 1 before its gradient is cut."""
    value_clip: float | None = number(None, above=0, at_most=LARGEST)
    """Clip the value's step as well, in units of return."""
    value_kind: Regression = "mse"
    """How the value is regressed on its target."""
    value_coefficient: float = number(0.5, at_least=0, at_most=1e6)
    """Weight of the value loss."""
    entropy_coefficient: float = number(0.01, at_least=0, at_most=1e6)
    """Weight of the entropy bonus; higher explores for longer."""
    normalize_advantage: bool = True
    """Advantages of a minibatch to mean 0 and standard deviation 1."""
    max_grad_norm: float | None = number(0.5, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""
    shared_trunk: bool = False
    """Actor and critic share their hidden layers."""

    def validate(self) -> None:
        """A minibatch fits into a batch."""
        frames = self.num_envs * self.rollout_steps
        if self.normalize_advantage and self.minibatch_size == 1:
            raise ConfigError("normalize_advantage is True, which needs a minibatch_size of 2 or more")
        if self.minibatch_size > frames:
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}; allowed is at most {frames}, the frames of a batch "
                "(num_envs * rollout_steps)"
            )


def build(config: Config) -> Pipeline:
    """Put PPO together.

    Raises:
        ConfigError: the environment or the device cannot be had, or do not fit the config.
    """
    device, seeds = check_device(config), Seeds(config.seed)
    env = make_training_env(config, seeds)
    with seeds.torch_seeded("initialization"):
        trunk = make_trunk(config, env, shared=config.shared_trunk)
        actor = make_actor(config, env, trunk, seeds.generator("exploration", device))
        critic = make_critic(config, trunk if config.shared_trunk else make_trunk(config, env))
    loss = ClipPPOLoss(
        actor,
        critic,
        clip=config.clip,
        value_clip=config.value_clip,
        value_kind=config.value_kind,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
        normalize_advantage=config.normalize_advantage,
    ).to(device)
    frames = config.num_envs * config.rollout_steps
    optimizer, schedule = make_optimizer(config, loss.parameters(), -(-config.total_frames // frames), frames)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(frames, device=device),
        sampler=SamplerWithoutReplacement(),
        batch_size=config.minibatch_size,
        generator=seeds.generator("replay", device),
    )
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=config.execution)
    lives, advantage = make_lives(config, env), GAE(critic, gamma=config.gamma, lmbda=config.lmbda)
    learn = on_policy(lambda batch: advantage(lives(batch)), buffer, update, epochs=config.epochs, keys=loss.in_keys)
    state = make_state(actor, env, seeds, loss=loss, optimizer=optimizer, schedule=schedule)
    collector = make_collector(config, env, actor, frames)
    return Pipeline(collector, scheduled(learn, optimizer, schedule), actor, state, tuple(env.transform))
