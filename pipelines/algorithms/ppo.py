"""Proximal policy optimisation with the clipped surrogate, Schulman et al. 2017, Algorithm 1.

Collect `rollout_steps` steps of each environment, with the log-probabilities of their actions.
Compute advantages by generalized advantage estimation, Schulman et al. 2016, equation 16: `losses/advantage.py`.
Minimise the clipped surrogate (equation 7), the value loss and the negative entropy (equation 9): `losses/ppo.py`.
Update actor and critic for `epochs` passes over the batch, one Adam step a minibatch; then forget the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.losses import GAE, ClipPPOLoss
from rlpipe.pipelines.algorithms.configs.ppo import Config
from rlpipe.pipelines.build.environment import make_lives
from rlpipe.pipelines.build.networks import make_actor_critic
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.updates.learning import on_policy
from rlpipe.pipelines.updates.update import gradient_step


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
