"""Soft actor-critic, Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications", Algorithm 1.

Collect `rollout_steps` steps of each environment into the replay buffer; the first `warmup_frames` actions are random.
Compute the target: the smaller of two target critics' values of an action drawn in the next state, plus its entropy.
Minimise three losses at once, of critics, actor and temperature: `losses/sac.py`.
Update all in `updates` Adam steps on uniformly drawn minibatches, and the target critics after each step.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from rlpipe.losses import NStep, SACLoss, TargetUpdate
from rlpipe.modules import GaussianActor
from rlpipe.pipelines.algorithms.configs.sac import Config
from rlpipe.pipelines.build.continuous import (
    action_units,
    box_actions,
    make_action_value_critics,
    make_head,
    with_warmup,
)
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.build.replay import make_buffer
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.state import replay_parts, transition_kinds
from rlpipe.pipelines.updates.learning import off_policy
from rlpipe.pipelines.updates.update import gradient_step


def make_networks(config: Config, env: EnvBase, generator: torch.Generator) -> tuple[GaussianActor, nn.ModuleList]:
    """The actor, and two critics.

    Raises:
        ConfigError: the environment's actions are not a Box.
    """
    spec, dims = box_actions(config, env, "SAC"), len(env.batch_size)
    network = make_head(config, env, 2 * spec.shape[dims:].numel())
    actor = GaussianActor(network, spec, generator, batch_dims=dims, state_dependent_std=True)
    return actor, make_action_value_critics(config, env, action_units(actor))


def make_loss(config: Config, actor: GaussianActor, critics: nn.ModuleList) -> SACLoss:
    """The loss; its entropy is that of actions scaled to -1 to 1."""
    entropy = -float(actor.shape.numel()) if config.target_entropy is None else config.target_entropy
    return SACLoss(
        actor,
        critics,
        alpha=config.alpha,
        target_entropy=entropy if config.learn_alpha else None,
        log_scale=float(action_units(actor).log().sum()),
        n_step=True,
    )


def build(config: Config) -> Pipeline:
    """Build SAC.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    generator = seeds.generator("exploration", device)
    with seeds.torch_seeded("initialization"):
        actor, critics = make_networks(config, env, generator)
    loss = make_loss(config, actor, critics)
    buffer = make_buffer(config, env, loss.in_keys, seeds, device)
    loss = loss.to(device)
    policy = with_warmup(config, env, [actor], generator).to(device)
    target = TargetUpdate(loss.critics, loss.target_critics, tau=config.tau)
    learned = [each for each in loss.parameters() if each.requires_grad]
    batches = config.learning_batches(config.warmup_frames)
    optimizer, schedule = make_optimizer(config, learned, batches, config.frames_per_batch)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, after=[target], execution=config.execution)
    replayed = off_policy(buffer, update, updates=config.updates_per_batch, warmup=config.warmup_frames)
    learn_from, n_step = scheduled(replayed, optimizer, schedule), NStep(gamma=config.gamma, n=config.n_steps)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        return learn_from(n_step(batch))

    parts = {"loss": loss, "optimizer": optimizer, "target": target, "schedule": schedule}
    parts |= replay_parts(buffer, transition_kinds(env, loss.in_keys))
    numbers = {"gamma": n_step, "tau": target, "updates": replayed, **optimizer_numbers(optimizer, update)}
    numbers |= {"target_entropy": loss} if config.learn_alpha else {"alpha": loss}
    return make_pipeline(config, env, policy, learn, seeds, numbers=numbers, **parts)
