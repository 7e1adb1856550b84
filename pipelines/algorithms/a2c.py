"""Advantage actor-critic: the synchronous form of Mnih et al. 2016."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, A2CLoss
from rlpipe.losses.functional import Regression
from rlpipe.pipelines.build.collector import check_device, make_collector
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.build.networks import make_actor, make_critic, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer, scheduled
from rlpipe.pipelines.build.pipeline import make_state
from rlpipe.pipelines.config.fields import LARGEST, MANY, number
from rlpipe.pipelines.config.groups import ActorConfig, OptimizerConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.update import gradient_step, once


@dataclass(frozen=True)
class Config(OptimizerConfig, ActorConfig, TrainConfig):
    """A2C, tuned to solve CartPole-v1 fast."""

    lr: float = number(3e-3, above=0, at_most=LARGEST)
    """Learning rate at the start; high for the sake of CartPole, 7e-4 is a usual one."""
    num_envs: int = number(8, at_least=1, at_most=1_000_000)
    """Environments that step together."""
    rollout_steps: int = number(64, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch, which is learned from once."""
    total_frames: int = number(190_000, at_least=1, at_most=MANY)
    """Environment steps to train for, rounded up to whole batches."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount a step."""
    lmbda: float = number(1.0, at_least=0, at_most=1)
    """Of generalized advantage estimation; 1 gives n-step returns to the end of the batch."""
    value_kind: Regression = "mse"
    """How the value is regressed on its target."""
    value_coefficient: float = number(0.01, at_least=0, at_most=1e6)
    """Weight of the value loss; small, because actor and critic share the limit on the gradient's norm."""
    entropy_coefficient: float = number(0.0, at_least=0, at_most=1e6)
    """Weight of the entropy bonus; higher explores for longer."""
    normalize_advantage: bool = True
    """Advantages of a batch to mean 0 and standard deviation 1."""
    max_grad_norm: float | None = number(0.5, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""
    shared_trunk: bool = False
    """Actor and critic share their hidden layers."""

    def validate(self) -> None:
        """Advantages of one frame cannot be normalised."""
        if self.normalize_advantage and self.num_envs * self.rollout_steps == 1:
            raise ConfigError(
                "normalize_advantage is True, which needs 2 frames a batch or more (num_envs * rollout_steps)"
            )


def build(config: Config) -> Pipeline:
    """Put A2C together.

    Raises:
        ConfigError: the environment or the device cannot be had, or do not fit the config.
    """
    device, seeds = check_device(config), Seeds(config.seed)
    env = make_training_env(config, seeds)
    with seeds.torch_seeded("initialization"):
        trunk = make_trunk(config, env, shared=config.shared_trunk)
        actor = make_actor(config, env, trunk, seeds.generator("exploration", device))
        critic = make_critic(config, trunk if config.shared_trunk else make_trunk(config, env))
    loss = A2CLoss(
        actor,
        critic,
        value_kind=config.value_kind,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
        normalize_advantage=config.normalize_advantage,
    ).to(device)
    frames = config.num_envs * config.rollout_steps
    optimizer, schedule = make_optimizer(config, loss.parameters(), -(-config.total_frames // frames), frames)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=config.execution)
    advantage = GAE(critic, gamma=config.gamma, lmbda=config.lmbda)
    learn = scheduled(once(update, keys=loss.in_keys, advantage=advantage), optimizer, schedule)
    state = make_state(actor, env, seeds, loss=loss, optimizer=optimizer, schedule=schedule)
    return Pipeline(make_collector(config, env, actor, frames), learn, actor, state, tuple(env.transform))
