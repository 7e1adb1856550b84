"""Twin delayed deep deterministic policy gradient, Fujimoto et al. 2018, Algorithm 1.

Collect `rollout_steps` steps of each environment into the replay buffer; in the first `warmup_frames` actions are
random, then the actor's with noise.
Compute the target: the smaller of two target critics' values of the target actor's action with clipped noise.
Minimise the critics' loss in each update, and the actor's in every `policy_delay`-th: `losses/td3.py`.
After each update of the actor, update the target networks.
"""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import EnvBase

from rlpipe.losses import NStep, TargetUpdate, TD3ActorLoss, TD3CriticLoss
from rlpipe.modules import DeterministicActor
from rlpipe.pipelines.algorithms.configs.td3 import Config
from rlpipe.pipelines.build.continuous import (
    action_units,
    box_actions,
    make_action_noise,
    make_action_value_critics,
    make_head,
    with_warmup,
)
from rlpipe.pipelines.build.optimizer import make_optimizer, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
from rlpipe.pipelines.build.replay import make_buffer
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.state import replay_parts, transition_kinds
from rlpipe.pipelines.updates.combining import every, in_turn
from rlpipe.pipelines.updates.learning import off_policy
from rlpipe.pipelines.updates.update import gradient_step


def make_networks(config: Config, env: EnvBase) -> tuple[DeterministicActor, nn.ModuleList]:
    """The actor, and two critics.

    Raises:
        ConfigError: the environment's actions are not a Box.
    """
    spec, dims = box_actions(config, env, "TD3"), len(env.batch_size)
    actor = DeterministicActor(make_head(config, env, spec.shape[dims:].numel()), spec, dims)
    return actor, make_action_value_critics(config, env, action_units(actor))


def build(config: Config) -> Pipeline:
    """Build TD3.

    Raises:
        ConfigError: the environment or the device is not available, or does not fit the config.
    """
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        actor, critics = make_networks(config, env)
    noise: dict[str, Any] = {"noise": config.target_noise, "noise_clip": config.target_noise_clip}
    critic_loss = TD3CriticLoss(actor, critics, n_step=True, **noise)
    buffer = make_buffer(config, env, critic_loss.in_keys, seeds, device)
    critic_loss, actor_loss = critic_loss.to(device), TD3ActorLoss(actor, critics[0])
    generator = seeds.generator("exploration", device)
    policy = with_warmup(config, env, [actor, make_action_noise(config, env, generator)], generator).to(device)
    online = nn.ModuleList([actor, critics])
    target = TargetUpdate(online, nn.ModuleList([critic_loss.target_actor, critic_loss.target_critics]), tau=config.tau)
    # of both losses: Adam leaves a parameter without a gradient as it is
    batches = config.learning_batches(config.warmup_frames)
    optimizer, schedule = make_optimizer(config, online.parameters(), batches, config.frames_per_batch)
    shared: dict[str, Any] = {"max_norm": config.max_grad_norm, "execution": config.execution}
    delayed = every(config.policy_delay, gradient_step(actor_loss, optimizer, after=[target], **shared))
    update = in_turn(gradient_step(critic_loss, optimizer, **shared), delayed)
    replayed = off_policy(buffer, update, updates=config.updates_per_batch, warmup=config.warmup_frames)
    learn_from, n_step = scheduled(replayed, optimizer, schedule), NStep(gamma=config.gamma, n=config.n_steps)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        return learn_from(n_step(batch))

    parts = {"loss": critic_loss, "optimizer": optimizer, "target": target, "every": delayed, "schedule": schedule}
    parts |= replay_parts(buffer, transition_kinds(env, critic_loss.in_keys))
    numbers = {"gamma": n_step, "tau": target, "updates": replayed, "policy_delay": (delayed, "n"), "lr": optimizer}
    numbers |= {"target_noise": (critic_loss, "noise"), "target_noise_clip": (critic_loss, "noise_clip")}
    return make_pipeline(config, env, policy, learn, seeds, numbers=numbers, **parts)
