"""REINFORCE on whole episodes, Williams 1992; a learned baseline as an option."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from tensordict import TensorDictBase

from rlpipe.errors import ConfigError
from rlpipe.losses import ReinforceLoss, ReturnToGo
from rlpipe.losses.functional import Regression
from rlpipe.losses.reinforce import Normalization
from rlpipe.pipelines.build.collector import check_device, make_collector
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.build.networks import make_actor, make_critic, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer, scheduled
from rlpipe.pipelines.build.pipeline import make_state
from rlpipe.pipelines.config.fields import LARGEST, MANY, number
from rlpipe.pipelines.config.groups import ActorConfig, OptimizerConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.devices import Execution, gpu_memory_for
from rlpipe.pipelines.envs import env_spec
from rlpipe.pipelines.pipeline import Pipeline, Update
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.replay.state import transition_kinds
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.update import gradient_step, mean_of


@dataclass(frozen=True)
class Config(OptimizerConfig, ActorConfig, TrainConfig):
    """REINFORCE, tuned to solve CartPole-v1 fast."""

    num_envs: int = number(16, at_least=1, at_most=1_000_000)
    """Environments that step together."""
    rollout_steps: int = number(64, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch; the episodes that end in it are learned from."""
    total_frames: int = number(190_000, at_least=1, at_most=MANY)
    """Environment steps to train for, rounded up to whole batches."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount a step."""
    baseline: bool = False
    """Subtract a learned state value from the returns."""
    normalize: Normalization = "batch"
    """Returns (less the baseline) to mean 0 and standard deviation 1, over the batch or in each episode."""
    update_each_episode: bool = False
    """A gradient step for each episode, one after the other; else one for all episodes of a batch together."""
    value_kind: Regression = "mse"
    """How the baseline is regressed on the returns."""
    value_coefficient: float = number(0.5, at_least=0, at_most=1e6)
    """Weight of the baseline's loss."""
    entropy_coefficient: float = number(0.0, at_least=0, at_most=1e6)
    """Weight of the entropy bonus; higher explores for longer."""
    max_grad_norm: float | None = number(None, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""

    def validate(self) -> None:
        """A batch has the frames of one episode at least, and what depends on its numbers is no CUDA graph."""
        if self.cuda_graphs and self.normalize == "episode":
            raise ConfigError(
                "cuda_graphs is True, which needs normalize to be 'batch' or 'none'; it is 'episode', whose operations "
                "depend on the episodes' lengths"
            )
        frames = self.num_envs * self.rollout_steps
        limit = self.max_episode_steps or env_spec(self.env_id).max_episode_steps
        if limit is not None and frames < limit:
            raise ConfigError(
                f"a batch is {frames} frames (num_envs * rollout_steps), fewer than an episode's {limit}: REINFORCE "
                f"learns from whole episodes; set rollout_steps to {-(-limit // self.num_envs)} or more"
            )


def build(config: Config) -> Pipeline:
    """Put REINFORCE together.

    Raises:
        ConfigError: the environment or the device cannot be had, or do not fit the config.
    """
    device, seeds = check_device(config), Seeds(config.seed)
    env = make_training_env(config, seeds)
    with seeds.torch_seeded("initialization"):
        actor = make_actor(config, env, make_trunk(config, env), seeds.generator("exploration", device))
        critic = make_critic(config, make_trunk(config, env)) if config.baseline else None
    loss = ReinforceLoss(
        actor,
        critic,
        normalize=config.normalize,
        value_kind=config.value_kind,
        value_coefficient=config.value_coefficient,
        entropy_coefficient=config.entropy_coefficient,
    ).to(device)
    frames = config.num_envs * config.rollout_steps
    optimizer, schedule = make_optimizer(config, loss.parameters(), -(-config.total_frames // frames), frames)
    returns = ReturnToGo(critic, gamma=config.gamma)
    kinds = partial(transition_kinds, env)
    kept = [*returns.in_keys, *loss.actor.in_keys, "action"]
    episodes = EpisodeBuffer(kept, kinds=kinds, num_envs=config.num_envs, device=device)
    # the size of what `normalize="episode"` groups by depends on the batch, so it cannot be recorded
    execution: Execution = "eager" if config.normalize == "episode" else config.execution
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, execution=execution)
    learn = scheduled(
        on_episodes(returns, episodes, update, each=config.update_each_episode, keys=loss.in_keys), optimizer, schedule
    )
    state = make_state(actor, env, seeds, loss=loss, optimizer=optimizer, schedule=schedule, episodes=episodes)
    return Pipeline(make_collector(config, env, actor, frames), learn, actor, state, tuple(env.transform))


def on_episodes(returns: Update, episodes: EpisodeBuffer, update: Update, *, each: bool, keys: list[str]) -> Update:
    """Learn from each whole episode once: in a gradient step of its own, or in one with all that ended in the batch.

    Args:
        returns: writes what weighs each step.
        episodes: holds what is unfinished.
        update: one gradient step.
        each: a step for each episode.
        keys: what the update reads.
    """

    def learn(batch: TensorDictBase) -> TensorDictBase:
        with gpu_memory_for("an update with whole episodes", "--num-envs or --rollout-steps"):
            finished = episodes.extend(batch)
            if finished and not each:
                finished = [torch.cat(finished)]
            return mean_of([update(returns(steps).select(*keys)) for steps in finished])

    return learn
