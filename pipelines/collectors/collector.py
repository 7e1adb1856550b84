"""The lean collector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import DoubleToFloat, EnvBase, ObservationNorm, Transform, TransformedEnv
from torchrl.envs.utils import set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.modules import tensor_modules
from rlpipe.modules.acting import acting
from rlpipe.pipelines.collectors.env_state import Environments
from rlpipe.pipelines.devices import sent
from rlpipe.pipelines.envs.backends.batch_checker import Arrays
from rlpipe.pipelines.envs.frozen_transforms import per_environment
from rlpipe.pipelines.envs.transforms import POINTWISE
from rlpipe.pipelines.envs.vector import VectorEnv, as_tensor

Tensors = dict[str, Tensor]


class SyncDataCollector(Collector):
    """TorchRL's `Collector`, under the name that everyone knows it by, with a lean `rollout` for environments of ours.

    On a `TransformedEnv` over a `VectorEnv`, rows are kept as NumPy arrays and become tensors once a rollout;
    transforms of `POINTWISE` are then applied to the whole rollout, and at each step only to what the policy sees. The
    batch equals the stock one bit for bit. With any other environment or transform, or an option that the lean path
    does not serve, it is the stock collector. Arguments are the stock ones; batches are `[num_envs, T]`.

    With a `policy_device` other than the environments', a step sends up what the policy reads and brings down its
    actions, and nothing else; where the `storing_device` is the policy's, a rollout sends up the rest in one piece.

    Raises:
        ConfigError: there is no environment, or the policy reads keys that it does not have.
    """

    note: Callable[[TensorDictBase], None] | None = None
    """Told of each batch of the lean path before anybody else is."""

    def __init__(self, create_env_fn: Any, policy: Any = None, **options: Any) -> None:
        _check_parts(create_env_fn, policy)
        if not _is_recurrent(policy):
            # there is nothing to register, and TorchRL would warn of that
            options.setdefault("auto_register_policy_transforms", False)
        super().__init__(create_env_fn, policy, **options)

    def rollout(self) -> TensorDictBase | None:
        """Collect `frames_per_batch` frames, as the stock method of this name does."""
        return self._rollout() if self.is_lean() else super().rollout()

    def _rollout(self) -> TensorDictBase:
        if self.pre_collect_hook is not None:
            self.pre_collect_hook()
        env: VectorEnv = self.env.base_env
        wanted = [*self.policy.in_keys, *(key for transform in self.env.transform for key in transform.in_keys)]
        observed = [key for key in env.root if key in wanted]
        decide = self._make_decide()
        roots: list[Arrays] = []
        decisions: list[Tensors] = []
        steps: list[Arrays] = []
        with (
            set_exploration_type(self.exploration_type),
            torch.inference_mode(),
            acting(tensor_modules(self.policy) or ()),
        ):
            for _ in range(self.frames_per_batch):
                root = env.root
                decision = decide({key: as_tensor(key, root[key]) for key in observed})
                roots.append(root)
                decisions.append(decision)
                steps.append(env.advance(decision["action"].cpu().numpy()))
        batch = self._assemble(roots, decisions, steps)
        if self.note is not None:
            self.note(batch)
        return batch

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, as the stock method of this name does; lean ones uncopied, since each is new."""
        while self._frames < self.total_frames:
            if not self.is_lean():
                yield from super().iterator()
                return
            self._iter += 1
            batch = self._rollout()
            # not by `_increment_frames`, which closes the environments before the last batch has been learned from
            self._frames += batch.numel()
            batch = self._postproc(batch)
            if self.post_collect_hook is not None:
                self.post_collect_hook(batch)
            yield batch

    def shutdown(self, timeout: float | None = None, close_env: bool = True, raise_on_error: bool = True) -> None:
        """Close the environments, as the stock method of this name does."""
        # which takes one that was never stepped through TorchRL for a closed one
        if close_env and not self.closed:
            self.env.close(raise_if_closed=False)
        super().shutdown(timeout, close_env, raise_on_error)

    def env_state(self) -> Environments | None:
        """The environments as a component of checkpoints; `None` where they cannot be saved, as on the stock path."""
        return Environments(self) if self.is_lean() else None

    @property
    def position(self) -> tuple[int, int]:
        """Frames and batches collected so far; may be set before iterating."""
        return self._frames, self._iter

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._frames, self._iter = position

    def is_lean(self) -> bool:
        """Whether environment, policy and options are ones that the lean path serves."""
        return (
            isinstance(self.env, TransformedEnv)
            and isinstance(self.env.base_env, VectorEnv)
            and all(_is_pointwise(transform, self.env) for transform in self.env.transform)
            and self._policy_keys() <= set(self.env.base_env.root)
            and not any(isinstance(key, tuple) for key in self.policy.out_keys)
            and not (self.compiled_policy or self.cudagraphed_policy)
            and self.replay_buffer is None
            and self.interruptor is None
            # TorchRL's multi-process collectors say -1 for none
            and (self.init_random_frames or 0) <= 0
            and not (self.reset_at_each_iter or self.set_truncated)
            and not (self.return_same_td or self._compact_next_keys)
        )

    def _policy_keys(self) -> set[NestedKey | None]:
        return set(getattr(self.policy, "in_keys", [None]))

    @property
    def _away(self) -> torch.device | None:
        """The policy's device, if it is not the environments'."""
        return self.policy_device if self._cast_to_policy_device else None

    def _make_decide(self) -> Callable[[Tensors], Tensors]:
        """From what is observed to what the policy reads and writes; without TensorDicts where nothing needs them."""
        modules = tensor_modules(self.policy)
        device, transforms = self._away, len(self.env.transform) > 0
        reads, both = self.policy.in_keys, [*self.policy.in_keys, *self.policy.out_keys]

        def compute(values: Tensors) -> Tensors:
            for module in modules or ():
                outputs = module.compute(*[values[key] for key in module.in_keys])
                values.update(zip(module.out_keys, outputs, strict=True))
            return values

        def call(values: Tensors) -> Tensors:
            decision = self._wrapped_policy(TensorDict(values, batch_size=self.env.batch_size, device=device))
            return {key: decision.get(key) for key in both}

        act = compute if modules else call
        if device is None and not transforms:
            return act

        def prepare(values: Tensors) -> Tensors:
            if transforms:
                seen = self._transform(TensorDict(values, batch_size=self.env.batch_size))
                values = {key: seen.get(key) for key in reads}
            return act({key: values[key].to(device) for key in reads} if device is not None else values)

        return prepare

    def _assemble(self, roots: list[Arrays], decisions: list[Tensors], steps: list[Arrays]) -> TensorDictBase:
        shape = (self.n_env, len(roots))
        rows = _stack_arrays(roots)
        written = _stack_tensors(decisions, self.policy.out_keys)
        if self._away is None:
            rows |= written
        for key in ("done", "terminated", "truncated"):
            rows[key] = torch.zeros(*shape, 1, dtype=torch.bool)
        batch = self._transform(TensorDict(rows, batch_size=shape))
        after = TensorDict(_stack_arrays(steps), batch_size=shape)
        if len(self.env.transform):
            after = self.env.transform._step(batch, after)
        batch.set("next", after)
        if self.track_traj_ids:
            batch.set(("collector", "traj_ids"), self._number_trajectories(after.get("done").squeeze(-1)))
        if self._away is not None:
            batch = self._bring_together(batch, written, decisions)
        elif self.storing_device is not None:
            batch = batch.to(self.storing_device)
        batch.names = [*[None] * (len(shape) - 1), "time"]
        return batch

    def _bring_together(self, batch: TensorDict, written: Tensors, decisions: list[Tensors]) -> TensorDict:
        """The batch, and what the policy wrote on a device of its own, where batches are stored."""
        if self.storing_device is None or self.storing_device == self.env.device:
            return batch.update({key: value.to(self.env.device) for key, value in written.items()})
        if self.storing_device == self._away:
            # what it read is there already
            written = _stack_tensors(decisions, self.policy.in_keys) | written
        stored = sent(batch.exclude(*written), self.storing_device)
        return stored.update({key: value.to(self.storing_device) for key, value in written.items()})

    def _transform(self, root: TensorDict) -> TensorDict:
        transformed: TensorDict = self.env.transform._call(root) if len(self.env.transform) else root
        return transformed

    def _number_trajectories(self, done: Tensor) -> Tensor:
        """Trajectory ids `[num_envs, T]`, numbered on from the last rollout's in the order in which episodes end."""
        carried = self._carrier.get(("collector", "traj_ids"))
        current, pool = carried.to(done.device), self._traj_pool
        ids = torch.empty(done.shape, dtype=current.dtype, device=done.device)
        for t, ended in enumerate(done.unbind(-1)):
            ids[:, t] = current
            if ended.any():
                fresh = pool.get_traj_and_increment(ended.sum(), device=done.device)
                current = current.masked_scatter(ended, fresh)
        self._carrier.set(("collector", "traj_ids"), current.to(carried.device))
        return ids


def _check_parts(env: Any, policy: Any) -> None:
    """Refuse what TorchRL would stumble over later."""
    if not isinstance(env, EnvBase):
        if not callable(env):
            raise ConfigError(f"the collector needs an environment, got a {type(env).__name__}; pass make_env(...)")
        return
    reads = getattr(policy, "in_keys", None)
    # a recurrent policy's own state is added by TorchRL
    if reads is None or _is_recurrent(policy):
        return
    specs = (env.full_observation_spec, env.full_state_spec, env.full_done_spec, env.full_action_spec)
    has = {key for spec in specs if spec is not None for key in spec.keys(True, True)}
    missing = [key for key in reads if key not in has and key not in policy.out_keys]
    if missing:
        raise ConfigError(
            f"the policy {type(policy).__name__} reads {missing}, which the environment does not have; it has "
            f"{sorted(map(str, has))}; change the policy's in_keys, or add a transform that writes them"
        )


def _is_recurrent(policy: Any) -> bool:
    modules = policy.modules() if isinstance(policy, nn.Module) else ()
    return any(hasattr(module, "make_tensordict_primer") for module in modules)


def _is_pointwise(transform: Transform, env: TransformedEnv) -> bool:
    """Whether it is one of `POINTWISE`, no subclass of unknown ways, and leaves the actions as they are.

    The action's type does not matter: the environment casts it. A normalisation with statistics for each environment
    does not fit a whole rollout, and one of what a reset does not give (a reward) needs TorchRL's way of a reset.
    """
    kind = type(transform)
    if kind is ObservationNorm:
        specs = (env.base_env.observation_spec, env.observation_spec)
        shapes = [spec[key].shape for spec in specs for key in transform.in_keys if key in spec.keys()]  # noqa: SIM118
        if len(shapes) < len(specs) * len(transform.in_keys):
            return False
        dims = max((len(shape) - 1 for shape in shapes), default=0)
        if per_environment(transform.loc, transform.scale, dims):
            return False
    return kind in POINTWISE and (kind is DoubleToFloat or not transform.in_keys_inv)


def _stack_arrays(rows: list[Arrays]) -> dict[str, Tensor]:
    """One array a step to one tensor `[num_envs, T, ...]` a key."""
    # not `np.stack`, which takes a detour for each array
    return {
        key: as_tensor(key, np.concatenate([row[key] for row in rows]).reshape(len(rows), *array.shape)).transpose(0, 1)
        for key, array in rows[0].items()
    }


def _stack_tensors(steps: list[Tensors], keys: list[str]) -> Tensors:
    """One tensor a step to one tensor `[num_envs, T, ...]` a key."""
    return {key: torch.stack([step[key] for step in steps]).transpose(0, 1) for key in keys}
