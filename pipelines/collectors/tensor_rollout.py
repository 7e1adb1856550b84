"""The lean rollout of a `TensorEnv`: policy, environments and bookkeeping on one device, without a copy to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.envs import TransformedEnv

from rlpipe.pipelines.devices import sent
from rlpipe.pipelines.envs.tensor.env import FLAGS, TensorEnv, Tensors, as_column, check_finite


def collect_tensors(
    env: TensorEnv, decide: Callable[[Any], Any], observed: Sequence[NestedKey], steps: int
) -> tuple[list[Tensors], list[Tensors], list[Tensors]]:
    """Step `env` so many times: the roots, what `decide` made of their `observed` entries, and the `next` entries."""
    roots: list[Tensors] = []
    decisions: list[Tensors] = []
    after: list[Tensors] = []
    for _ in range(steps):
        root = env.root
        decision = decide({key: as_column(key, root[key]) for key in observed})
        roots.append(root)
        decisions.append(decision)
        after.append(env.advance(env.actions_in(decision)))
    return roots, decisions, after


def assemble_tensors(
    env: TransformedEnv, roots: list[Tensors], written: Tensors, after: list[Tensors], storing: torch.device | None
) -> TensorDictBase:
    """A batch `[num_envs, T]` of what was collected; transforms are applied to all of it.

    The host waits once, to know whether all numbers are finite.

    Args:
        env: over a `TensorEnv`.
        roots: one of each step.
        written: by the policy, `[num_envs, T, ...]`, on the environments' device.
        after: the `next` entries of each step.
        storing: the device of the batch, if it is another.

    Raises:
        TrainingError: a reward or an observation is NaN or infinite.
    """
    device, shape = env.device, (env.batch_size[0], len(roots))
    batch = TensorDict(batch_size=shape, device=device)
    for key, value in {**_stacked(roots), **written}.items():
        batch.set(key, value)
    for key in FLAGS:
        batch.set(key, torch.zeros(*shape, 1, dtype=torch.bool, device=device))
    following = TensorDict(batch_size=shape, device=device)
    for key, value in _stacked(after).items():
        following.set(key, value)
    check_finite(following)
    if len(env.transform):
        batch = env.transform._call(batch)
        following = env.transform._step(batch, following)
    batch.set("next", following)
    return batch if storing in (None, device) else sent(batch, storing)


def _stacked(steps: list[Tensors]) -> dict[NestedKey, Tensor]:
    """One tensor per step to one tensor `[num_envs, T, ...]` per key."""
    return {
        key: as_column(key, torch.stack([step[key] for step in steps]).transpose(0, 1)) for key in steps[0]
    }
