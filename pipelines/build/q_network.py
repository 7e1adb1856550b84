"""What the recipes of Q networks share: their options, their network, and all of their pipeline but the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch.optim.lr_scheduler import LRScheduler
from torchrl.data import Categorical
from torchrl.envs import EnvBase, TransformedEnv

from rlpipe.errors import ConfigError
from rlpipe.losses import NStep, QNetworkLoss, TargetUpdate
from rlpipe.modules import MLP, DuelingHead, Network
from rlpipe.modules.base import kind_of
from rlpipe.modules.choices import joint_choices
from rlpipe.pipelines.build.environment import make_lives
from rlpipe.pipelines.build.networks import is_masked, make_explorer, make_trunk
from rlpipe.pipelines.build.optimizer import make_optimizer, optimizer_numbers, scheduled
from rlpipe.pipelines.build.pipeline import make_pipeline
from rlpipe.pipelines.build.replay import make_buffer
from rlpipe.pipelines.config.q_network import QNetworkConfig
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.image_buffer import ImageReplay
from rlpipe.pipelines.replay.state import replay_parts, transition_kinds
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.learning import off_policy, once
from rlpipe.pipelines.updates.update import GradientStep, gradient_step


def make_q_network(config: QNetworkConfig, env: EnvBase, quantiles: int = 1) -> Network:
    """The network from an observation to `[*B, A * quantiles]`, the values of A actions or the quantiles of each.

    Raises:
        ConfigError: the environment's actions are not Discrete, nor a few choices at once.
    """
    spec = env.full_action_spec["action"]
    if not isinstance(spec, Categorical):
        raise ConfigError(
            f"env_id is {config.env_id!r}, whose actions are {kind_of(spec)}; DQN needs Discrete actions, try ppo"
        )
    try:
        joint = joint_choices(spec, is_masked(env), len(env.batch_size))
    except ValueError as error:
        raise ConfigError(f"env_id is {config.env_id!r}: {error}; try ppo") from error
    features, actions = config.hidden[-1], int(spec.space.n) if joint is None else joint.actions
    dueling = DuelingHead(features, actions, config.initialization, quantiles)
    head = dueling if config.dueling else MLP(features, actions * quantiles, (), initialization=config.initialization)
    return Network(*make_trunk(config, env), head)


def q_network_pipeline(
    config: QNetworkConfig,
    loss: QNetworkLoss,
    set_up: tuple[torch.device, Seeds, TransformedEnv],
    numbers: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Epsilon-greedy exploration, n-step returns, replay, and updates of the loss and its target network.

    Args:
        config: of the run.
        loss: its `q_network` acts greedily.
        set_up: device, random streams and environment, as `set_up` returns them.
        numbers: of the loss that may change during training, see `make_pipeline`.

    Raises:
        ConfigError: there is no room for the replay buffer, or a batch.
    """
    device, seeds, env = set_up
    explorer = make_explorer(config, env, seeds.generator("exploration", device))
    policy = TensorDictSequential(loss.q_network, explorer)
    buffer = make_buffer(config, env, loss.in_keys, seeds, device) if config.replay else None
    warmup = config.warmup_frames if config.replay else 1
    update, target, schedule = _make_update(config, loss.to(device), warmup)
    if buffer is None:
        learn_from, replay, replayed = scheduled(once(update), update.optimizer, schedule), {}, None
    else:
        replayed = off_policy(buffer, update, updates=config.updates, warmup=warmup)
        learn_from = scheduled(replayed, update.optimizer, schedule)
        replay = replay_parts(buffer, transition_kinds(env, loss.in_keys))
    end_at_life_loss, n_step = make_lives(config, env), NStep(gamma=config.gamma, n=config.n_steps)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        numbered = buffer.number(batch) if isinstance(buffer, ImageReplay) else batch
        scalars = learn_from(n_step(end_at_life_loss(numbered)))
        explorer.advance(batch)
        return scalars.set("epsilon", torch.tensor(explorer.epsilon))

    parts = {"loss": loss, "optimizer": update.optimizer, "target": target, "schedule": schedule, **replay}
    places: dict[str, Any] = {"gamma": n_step, "tau": target, "target_every": (target, "every"), "updates": replayed}
    places |= {
        "max_grad_value": (update, "max_value"),
        **optimizer_numbers(update.optimizer, update),
        **(numbers or {}),
    }
    return make_pipeline(config, env, policy, learn, seeds, numbers=places, **parts)


def _make_update(
    config: QNetworkConfig, loss: QNetworkLoss, warmup: int
) -> tuple[GradientStep, TargetUpdate | None, LRScheduler | None]:
    target = None
    if loss.target_network is not None:
        target = TargetUpdate(loss.q_network, loss.target_network, tau=config.tau, every=config.target_every)
    batches = config.learning_batches(warmup)
    optimizer, schedule = make_optimizer(config, loss.q_network.parameters(), batches, config.frames_per_batch)
    update = gradient_step(
        loss,
        optimizer,
        max_norm=config.max_grad_norm,
        max_value=config.max_grad_value,
        after=[target] if target is not None else [],
        execution=config.execution,
    )
    return update, target, schedule
