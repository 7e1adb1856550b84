"""REINFORCE, the Monte Carlo policy gradient, Williams 1992; Sutton and Barto 2018, sections 13.3 and 13.4.

Collect `rollout_steps` steps of each environment, and keep unfinished episodes for the next batch.
Compute returns to go, equation 3.9, of the episodes that ended, with `baseline` less a value: `losses/returns.py`.
Minimise the policy gradient loss, with `baseline` the value loss, and the negative entropy: `losses/reinforce.py`.
Update in one Adam step on all these episodes, or in one for each; then forget them.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.losses import Normalization, ReinforceLoss, ReturnToGo, action_keys, functional
from rlpipe.modules.recurrent import over_episodes
from rlpipe.pipelines.build.networks import make_actor_critic
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.config.groups import PolicyGradientConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.devices import Execution, gpu_memory_for
from rlpipe.pipelines.envs import env_spec
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.replay.state import transition_kinds
from rlpipe.pipelines.updates.combining import mean_of
from rlpipe.pipelines.updates.update import gradient_step

_LOG = logging.getLogger("rlpipe")


@dataclass(frozen=True)
class Config(PolicyGradientConfig, TrainConfig):
    """REINFORCE, tuned to solve CartPole-v1 fast."""

    num_envs: int = 16
    total_frames: int = 190_000
    max_grad_norm: float | None = None
    rollout_steps: int = 64
    """Steps of each environment in a batch; an update uses the episodes that end in it."""
    baseline: bool = False
    """Subtract a learned state value from the returns."""
    normalize: Normalization = "batch"
    """Normalise returns (minus the baseline) to mean 0 and standard deviation 1, over the batch or in each episode."""
    update_each_episode: bool = False
    """Make a gradient step for each episode; if off, one for all episodes of a batch."""
    value_kind: functional.Regression = "mse"
    """Loss between the baseline and the returns."""
    value_coefficient: float = 0.5
    """Weight of the baseline's loss."""

    def validate(self) -> None:
        if self.cuda_graphs and self.normalize == "episode":
            raise ConfigError(
                "cuda_graphs is True, which needs normalize to be 'batch' or 'none'; it is 'episode', whose operations "
                "depend on the episodes' lengths"
            )
        for name in ("cuda_graphs", "compile"):
            if getattr(self, name) and self.recurrent is not None:
                raise ConfigError(
                    f"{name} is True with recurrent {self.recurrent!r}, whose operations depend on the episodes' "
                    "lengths; leave one out, or use ppo or a2c"
                )
        limit = self.max_episode_steps or env_spec(self.env_id).max_episode_steps
        limit = None if limit is None else ceil_div(limit, self.action_repeat)
        if limit is not None and self.frames_per_batch < limit:
            raise ConfigError(
                f"a batch is {self.frames_per_batch} frames (num_envs * rollout_steps), fewer than an episode's {limit}"
                f": REINFORCE learns from whole episodes; set rollout_steps to {ceil_div(limit, self.num_envs)} or more"
            )


def build(config: Config) -> Pipeline:
    """Build REINFORCE.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        exploration = seeds.generator("exploration", device)
        actor, critic = make_actor_critic(config, env, exploration, with_critic=config.baseline)
    loss = ReinforceLoss(
        over_episodes(actor),
        critic if critic is None else over_episodes(critic),
        normalize=config.normalize,
        value_kind=config.value_kind,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
    ).to(device)
    optimizer, schedule = make_optimizer(config, loss.parameters(), config.batches, config.frames_per_batch)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=_execution(config))
    returns = ReturnToGo(critic, gamma=config.gamma)
    kept = [*returns.in_keys, *loss.actor.in_keys, *action_keys(actor)]
    kinds = functools.partial(transition_kinds, env, policy=actor)
    episodes = EpisodeBuffer(kept, kinds=kinds, num_envs=config.num_envs, device=device)

    @gpu_memory_for("an update with whole episodes", "--num-envs or --rollout-steps")
    def learn(batch: TensorDictBase) -> TensorDictBase:
        finished = episodes.extend(batch)
        if finished and not config.update_each_episode:
            finished = [torch.cat(finished)]
        return mean_of([update(returns(steps).select(*loss.in_keys)) for steps in finished])

    parts = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "episodes": episodes}
    numbers = optimizer_numbers(optimizer, update) | {"gamma": returns}
    numbers |= {"value_coefficient": loss, "entropy_coefficient": loss}
    learned = scheduled(learn, optimizer, schedule)
    return make_pipeline(config, env, actor, learned, seeds, numbers=numbers, **parts)


def _execution(config: Config) -> Execution:
    if config.compile:
        _LOG.warning("--compile has no effect on reinforce: its batches differ in length, and each would be compiled")
    # shapes within these depend on the batch, so they cannot be recorded
    if config.normalize == "episode" or config.recurrent is not None:
        return "eager"
    return "recorded" if config.compile else config.execution
