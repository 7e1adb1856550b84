"""The batch of a lean rollout of a `TensorEnv`, which stays on the device of its environments."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import TransformedEnv

from rlpipe.pipelines.devices import sent
from rlpipe.pipelines.envs.entries import Key
from rlpipe.pipelines.envs.tensor.env import FLAGS, Tensors, as_column, check_finite


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


def _stacked(steps: list[Tensors]) -> dict[Key, Tensor]:
    """One tensor per step to one tensor `[num_envs, T, ...]` per key."""
    return {key: as_column(key, torch.stack([step[key] for step in steps]).transpose(0, 1)) for key in steps[0]}
