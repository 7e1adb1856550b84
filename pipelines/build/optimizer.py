"""The optimiser of a Config and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from rlpipe.pipelines.config.groups import OptimizerConfig
from rlpipe.pipelines.pipeline import Update


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], batches: int, frames_per_batch: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """The optimiser, and the schedule, which steps once a collected batch; a falling rate reaches 0 after `batches`."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    optimizer = kind(parameters, lr=config.lr, eps=config.adam_eps, amsgrad=config.amsgrad, fused=True)
    if config.lr_schedule == "linear":
        return optimizer, _Falling(optimizer, lambda batch: max(0.0, 1 - batch / batches))
    if config.lr_schedule == "cosine":
        return optimizer, _Falling(optimizer, lambda batch: (1 + math.cos(math.pi * min(1.0, batch / batches))) / 2)
    if config.lr_schedule == "steps":
        return optimizer, StepLR(optimizer, max(1, config.lr_every // frames_per_batch), config.lr_factor)
    return optimizer, None


class _Falling(LambdaLR):
    """A learning rate in closed form, so that a run resumed with more frames continues with their rate."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, loaded after the optimiser's."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


def optimizer_numbers(optimizer: torch.optim.Optimizer, update: Update) -> dict[str, Any]:
    """Where the numbers of an `OptimizerConfig` are used, for `make_pipeline`."""
    return {"lr": optimizer, "adam_eps": (optimizer, "eps"), "max_grad_norm": (update, "max_norm")}


def scheduled(learn: Update, optimizer: torch.optim.Optimizer, schedule: LRScheduler | None) -> Update:
    """Add to `learn` a step of the schedule after each batch with updates, and `learning_rate` to its scalars."""

    def learn_and_step(batch: TensorDictBase) -> TensorDictBase:
        scalars = learn(batch).set("learning_rate", torch.tensor(optimizer.param_groups[0]["lr"]))
        if schedule is not None and scalars.get("updates"):
            schedule.step()
        return scalars

    return learn_and_step
