"""Proximal policy optimisation with the clipped surrogate, Schulman et al. 2017, Algorithm 1.

Collect `rollout_steps` steps of each environment, with the log-probabilities of their actions.
Compute advantages by generalized advantage estimation, Schulman et al. 2016, equation 16: `losses/advantage.py`.
Minimise the clipped surrogate (equation 7), the value loss and the negative entropy (equation 9): `losses/ppo.py`.
Update actor and critic for `epochs` passes over the batch, one Adam step a minibatch; then forget the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.modules import Activation
from rlpipe.pipelines.build.environment import make_lives
from rlpipe.pipelines.build.networks import make_actor_critic
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.config.fields import LARGEST, number
from rlpipe.pipelines.config.groups import ActorCriticConfig, LivesConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.updates.learning import on_policy
from rlpipe.pipelines.updates.update import gradient_step


@dataclass(frozen=True)
class Config(ActorCriticConfig, LivesConfig, TrainConfig):
    """PPO, tuned to solve CartPole-v1 fast."""

    num_envs: int = 16
    hidden: tuple[int, ...] = (128,)
    activation: Activation = "relu"
    lr: float = 3e-3
    entropy_coefficient: float = 0.01
    minibatch_size: int = number(128, at_least=1, at_most=10_000_000)
    """Samples per gradient step."""
    epochs: int = number(4, at_least=1, at_most=100_000)
    """Passes over each batch."""
    clip: float = number(0.3, above=0, at_most=LARGEST)
    """Clip the probability ratio to within this distance of 1."""
    value_clip: float | None = number(None, above=0, at_most=LARGEST)
    """Also clip how far a value may move in an update, in units of return."""
    target_kl: float | None = number(None, above=0, at_most=LARGEST)
    """Leave the rest of the epochs out once the `approx_kl` of a minibatch is above 1.5 times this."""

    def validate(self) -> None:
        """Check that a minibatch fits into a batch."""
        if self.normalize_advantage and self.minibatch_size == 1:
            raise ConfigError("normalize_advantage is True, which needs a minibatch_size of 2 or more")
        if self.minibatch_size > self.frames_per_batch:
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}; allowed is at most {self.frames_per_batch}, the frames of "
                "a batch (num_envs * rollout_steps)"
            )
        if self.recurrent is not None and self.minibatch_size % self.rollout_steps:
            whole = max(self.minibatch_size // self.rollout_steps, 1) * self.rollout_steps
            raise ConfigError(
                f"minibatch_size is {self.minibatch_size}; with recurrent, a minibatch has whole sequences of "
                f"{self.rollout_steps} steps, the rollout_steps: set it to a multiple, such as {whole}"
            )


def is_beyond(limit: float) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Whether the policy has moved further from the one that collected the batch, by the `approx_kl` of a minibatch."""
    return lambda terms: terms["approx_kl"] > limit


def build(config: Config) -> Pipeline:
    """Build PPO.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        actor, critic = make_actor_critic(config, env, seeds.generator("exploration", device))
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
    optimizer, schedule = make_optimizer(config, loss.parameters(), config.batches, config.frames_per_batch)
    skip_if = None if config.target_kl is None else is_beyond(1.5 * config.target_kl)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=config.execution, skip_if=skip_if)
    # a recurrent policy needs the steps of an environment in order
    steps = 1 if config.recurrent is None else config.rollout_steps
    minibatches = ReplayBuffer(
        storage=LazyTensorStorage(config.frames_per_batch // steps, device=device),
        sampler=SamplerWithoutReplacement(),
        batch_size=config.minibatch_size // steps,
        generator=seeds.generator("replay", device),
    )
    end_at_life_loss, gae = make_lives(config, env), GAE(critic, gamma=config.gamma, lmbda=config.lmbda)

    def advantages(batch: TensorDictBase) -> TensorDictBase:
        return gae(end_at_life_loss(batch))

    epochs = on_policy(advantages, minibatches, update, epochs=config.epochs, sequences=config.recurrent is not None)
    learn = scheduled(epochs, optimizer, schedule)
    parts = {"loss": loss, "optimizer": optimizer, "schedule": schedule}
    numbers = optimizer_numbers(optimizer, update) | {"epochs": epochs, "gamma": gae, "lmbda": gae}
    numbers |= dict.fromkeys(("clip", "value_clip", "value_coefficient", "entropy_coefficient"), loss)
    return make_pipeline(config, env, actor, learn, seeds, numbers=numbers, **parts)
