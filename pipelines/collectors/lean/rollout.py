"""What a lean rollout is made of: who can take part, a decision at each step, and the steps in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.envs import TransformedEnv

from rlpipe.modules import tensor_modules
from rlpipe.modules.recurrent import after, carried_specs
from rlpipe.pipelines.collectors.lean.carried import Tensors
from rlpipe.pipelines.envs.entries import Arrays, Key
from rlpipe.pipelines.envs.normalization.running import observation_norms
from rlpipe.pipelines.envs.tensor.env import TensorEnv
from rlpipe.pipelines.envs.transforms import is_pointwise
from rlpipe.pipelines.envs.vector import VectorEnv, as_tensor


def fits_lean(env: Any, policy: Any) -> bool:
    """Whether the lean path supports the environment and the policy."""
    if not isinstance(env, TransformedEnv) or not isinstance(env.base_env, (VectorEnv, TensorEnv)):
        return False
    carried = carried_specs(policy)
    return (
        all(is_pointwise(transform, env) for transform in env.transform)
        and set(getattr(policy, "in_keys", [None])) <= {*env.base_env.root, *carried}
        and {key for key in policy.out_keys if isinstance(key, tuple)} <= {*env.action_keys, *map(after, carried)}
    )


def make_decide(collector: Any) -> Callable[[Tensors], Tensors]:
    """A function from an observation to what the policy reads and writes; it avoids TensorDicts where it can."""
    policy, env, device = collector.policy, collector.env, collector.away
    modules, norms = tensor_modules(policy), observation_norms(env)
    reads, both = policy.in_keys, [*policy.in_keys, *policy.out_keys]

    def compute(values: Tensors) -> Tensors:
        for module in modules or ():
            outputs = module.compute(*[values[key] for key in module.in_keys])
            values.update(zip(module.out_keys, outputs, strict=True))
        return values

    def call(values: Tensors) -> Tensors:
        decision = collector._wrapped_policy(TensorDict(values, batch_size=env.batch_size, device=device))
        return {key: decision.get(key) for key in both}

    act = compute if modules else call
    transforms = any(set(each.out_keys) & set(reads) for each in env.transform if each not in norms)
    if device is None and not transforms and not norms:
        return act

    def prepare(values: Tensors) -> Tensors:
        if not transforms:
            for norm in norms:
                values.update({key: each.to(env.device) for key, each in norm.normalized().items()})
        else:
            seen = env.transform._call(TensorDict(values, batch_size=env.batch_size))
            values = {key: seen.get(key) for key in reads}
        return act({key: values[key].to(device) for key in reads} if device is not None else values)

    return prepare


def stack_arrays(rows: list[Arrays]) -> Tensors:
    """One array per step to one tensor `[num_envs, T, ...]` per key."""
    # faster than `np.stack`
    return {
        key: as_tensor(key, np.concatenate([row[key] for row in rows]).reshape(len(rows), *array.shape)).transpose(0, 1)
        for key, array in rows[0].items()
    }


def stack_tensors(steps: list[Tensors], keys: list[Key]) -> Tensors:
    """One tensor per step to one tensor `[num_envs, T, ...]` per key."""
    return {key: torch.stack([step[key] for step in steps]).transpose(0, 1) for key in keys}
