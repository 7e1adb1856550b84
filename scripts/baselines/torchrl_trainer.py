"""The TorchRL baseline with TorchRL's trainer classes, unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from tensordict.nn import TensorDictModuleBase
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.trainers import LRSchedulerHook, Trainer
from torchrl.trainers.algorithms import A2CTrainer, DQNTrainer, PPOTrainer, ReinforceTrainer

from rlpipe.arithmetic import ceil_div
from rlpipe.scripts.baselines.torchrl_loop import Parts, epoch_buffer, look_ahead, make_gae, make_parts
from rlpipe.scripts.baselines.torchrl_parts import stock_collector


def build_trainer(algorithm: str, config: Any) -> tuple[Trainer, TensorDictModuleBase]:
    """Make TorchRL's trainer of an algorithm, from the same parts, and return it with the policy that it trains.

    Everything else is up to the class: it computes the advantages again in every epoch, marks the end of each batch as
    truncated before storing it, warms DQN up with random actions, and gathers the values for its logger. REINFORCE has
    a critic there, and returns for unfinished episodes.

    Raises:
        ConfigError: TorchRL's parts do not support the config.
    """
    parts = make_parts(algorithm, config, full_critic=True)
    frames = config.frames_per_batch
    total = config.batches * frames
    warmup = ceil_div(config.warmup_frames, frames) * frames if algorithm == "dqn" else None
    collector = stock_collector(
        parts.env, parts.policy, frames_per_batch=frames, total_frames=total, init_random_frames=warmup
    )
    shared = {
        "collector": collector,
        "total_frames": total,
        "frame_skip": 1,
        "loss_module": parts.loss,
        "optimizer": parts.optimizer,
        "clip_norm": config.max_grad_norm,
        "clip_grad_norm": config.max_grad_norm is not None,
        "progress_bar": False,
    }
    with warnings.catch_warnings():
        # the classes warn that they are experimental, and use deprecated hooks
        warnings.filterwarnings("ignore", ".*is an experimental/prototype feature", UserWarning)
        warnings.filterwarnings("ignore", "The '.*' hook stage will be replaced", FutureWarning)
        make = _dqn_trainer if algorithm == "dqn" else _on_policy_trainer
        trainer = make(algorithm, config, parts, shared)
    return trainer, parts.policy


def stop_when(
    trainer: Trainer, policy: TensorDictModuleBase, check: Callable[[TensorDictModuleBase, int], bool]
) -> None:
    """End `trainer.train()` when `check`, called with the policy and the number of frames after each batch, is True."""

    def after_batch() -> None:
        if check(policy, trainer.collected_frames):
            trainer.request_stop()

    trainer.register_op("post_steps", after_batch)


def _dqn_trainer(_: str, config: Any, parts: Parts, shared: dict[str, Any]) -> Trainer:
    buffer = ReplayBuffer(storage=LazyTensorStorage(config.buffer_size), batch_size=config.minibatch_size)
    trainer = DQNTrainer(
        optim_steps_per_batch=config.updates,
        replay_buffer=buffer,
        target_net_updater=parts.target,
        greedy_module=parts.explorer,
        episode_reward_key="episode_reward",
        **shared,
    )
    trainer.register_op("batch_process", look_ahead(config))
    if parts.schedule is not None:
        LRSchedulerHook(parts.schedule).register(trainer)
    return trainer


def _on_policy_trainer(algorithm: str, config: Any, parts: Parts, shared: dict[str, Any]) -> Trainer:
    kind = {"ppo": PPOTrainer, "a2c": A2CTrainer, "reinforce": ReinforceTrainer}[algorithm]
    return kind(
        optim_steps_per_batch=None,
        num_epochs=getattr(config, "epochs", 1),
        replay_buffer=epoch_buffer(config),
        gae=make_gae(config, parts),
        lr_scheduler=parts.schedule,
        **shared,
    )
