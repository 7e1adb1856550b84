"""REINFORCE, the Monte Carlo policy gradient, Williams 1992; Sutton and Barto 2018, sections 13.3 and 13.4.

Collect `rollout_steps` steps of each environment, and keep unfinished episodes for the next batch.
Compute returns to go, equation 3.9, of the episodes that ended, with `baseline` less a value: `losses/returns.py`.
Minimise the policy gradient loss, with `baseline` the value loss, and the negative entropy: `losses/reinforce.py`.
Update in one Adam step on all these episodes, or in one for each; then forget them.
"""

from __future__ import annotations

import functools
import logging

import torch
from tensordict import TensorDictBase

from rlpipe.kinds import Execution
from rlpipe.losses import ReinforceLoss, ReturnToGo, action_keys
from rlpipe.modules.recurrent import over_episodes
from rlpipe.pipelines.algorithms.configs.reinforce import Config
from rlpipe.pipelines.build.networks import make_actor_critic
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.devices import gpu_memory_for
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.replay.state import transition_kinds
from rlpipe.pipelines.updates.combining import mean_of
from rlpipe.pipelines.updates.update import gradient_step

_LOG = logging.getLogger("rlpipe")


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
