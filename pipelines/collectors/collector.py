"""`SyncDataCollector`: TorchRL's collector in this process, with a lean rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.modules import tensor_modules
from rlpipe.modules.acting import acting
from rlpipe.modules.recurrent import FIRST, recurrent_parts
from rlpipe.pipelines.collectors.env_state import LocalEnvState
from rlpipe.pipelines.collectors.lean.carried import Carried, Tensors
from rlpipe.pipelines.collectors.lean.rollout import fits_lean, make_decide, stack_arrays, stack_tensors
from rlpipe.pipelines.collectors.lean.tensor_rollout import assemble_tensors
from rlpipe.pipelines.devices import sent
from rlpipe.pipelines.envs.entries import Arrays, Key
from rlpipe.pipelines.envs.frozen_transforms import append_state
from rlpipe.pipelines.envs.normalization.running import observation_norms
from rlpipe.pipelines.envs.tensor.env import TensorEnv, as_column
from rlpipe.pipelines.envs.vector import as_tensor

_STOCK_ONLY = (
    *("compile_policy", "cudagraph_policy", "replay_buffer", "interruptor", "init_random_frames"),
    *("reset_at_each_iter", "set_truncated", "return_same_td", "compact_obs"),
)
"""Options that the lean path does not support."""


class SyncDataCollector(Collector):
    """TorchRL's `Collector` (its own name was `SyncDataCollector` before), with a lean `rollout` for a `VectorEnv`.

    On a `TransformedEnv` over a `VectorEnv`, steps are kept as NumPy arrays and become tensors once per rollout;
    transforms of `POINTWISE` are then applied to the whole rollout, and at each step only to what the policy reads; a
    running normalisation too, which keeps the statistics of each step until then. The batch equals the stock one bit
    for bit. With any other environment or transform, or an option that the lean path does not support, it is the stock
    collector. Arguments are the stock ones; batches are `[num_envs, T]`.

    If `policy_device` is not the environments' device, a step copies to it only what the policy reads, and copies back
    only actions; if `storing_device` is the policy's, the rest of a rollout is copied to it in one piece.

    Raises:
        ConfigError: there is no environment, or the policy reads keys that it does not have.
    """

    on_batch: Callable[[TensorDictBase], None] | None = None
    """Called with each batch of the lean path, before any other hook."""
    carried: Carried
    """What a recurrent policy carries from step to step, on the lean path."""

    def __init__(self, create_env_fn: Any, policy: Any = None, **options: Any) -> None:
        _check_parts(create_env_fn, policy)
        if not recurrent_parts(policy):
            # TorchRL warns if there is nothing to register
            options.setdefault("auto_register_policy_transforms", False)
        elif options.get("auto_register_policy_transforms") is not False:
            options["auto_register_policy_transforms"] = False
            create_env_fn = _with_state(create_env_fn, policy, options)
        super().__init__(create_env_fn, policy, **options)
        if self.is_lean():
            self.carried = Carried(self.policy, self.n_env, self.away)

    def _maybe_make_final_rollout(self, make_rollout: bool) -> None:
        # TorchRL's buffers are made by a step, without the state that a recurrent policy reads
        if recurrent_parts(self.policy) and fits_lean(self.env, self.policy):
            self._final_rollout = None
        else:
            super()._maybe_make_final_rollout(make_rollout=make_rollout)

    def rollout(self) -> TensorDictBase | None:
        """Collect `frames_per_batch` frames, as the stock method does."""
        return self._rollout() if self.is_lean() else super().rollout()

    def _rollout(self) -> TensorDictBase:
        if self.pre_collect_hook is not None:
            self.pre_collect_hook()
        # a `VectorEnv`, in arrays, or a `TensorEnv`
        env: Any = self.env.base_env
        wanted = [*self.policy.in_keys, *(key for transform in self.env.transform for key in transform.in_keys)]
        observed = [key for key in env.root if key in wanted]
        decide, norms, carried = make_decide(self), observation_norms(self.env), self.carried
        for norm in norms:
            norm.begin_rollout(env.root)
        read: Callable[[Key, Any], Tensor] = as_column if isinstance(env, TensorEnv) else as_tensor
        roots: list[Any] = []
        decisions: list[Tensors] = []
        steps: list[Any] = []
        with (
            set_exploration_type(self.exploration_type),
            torch.inference_mode(),
            acting(tensor_modules(self.policy) or ()),
        ):
            for _ in range(self.frames_per_batch):
                root = env.root
                values = {key: read(key, root[key]) for key in observed} | carried.before(root["step_count"])
                decision = decide(values)
                carried.keep(decision)
                roots.append(root)
                decisions.append(decision)
                steps.append(env.advance(env.actions_in(decision)))
                for norm in norms:
                    norm.see(env.root)
        batch = self._finish(roots, decisions, steps)
        if self.on_batch is not None:
            self.on_batch(batch)
        return batch

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, as the stock method does; lean ones without a copy, because each is new."""
        while self._frames < self.total_frames:
            if not self.is_lean():
                yield from super().iterator()
                return
            self._iter += 1
            batch = self._rollout()
            # `_increment_frames` would close the environments before the learner has seen the last batch
            self._frames += batch.numel()
            batch = self._postproc(batch)
            if self.post_collect_hook is not None:
                self.post_collect_hook(batch)
            yield batch

    def shutdown(self, timeout: float | None = None, close_env: bool = True, raise_on_error: bool = True) -> None:
        """Close the environments, as the stock method does."""
        # the stock method takes an environment that TorchRL never stepped for a closed one
        if close_env and not self.closed:
            self.env.close(raise_if_closed=False)
        super().shutdown(timeout, close_env, raise_on_error)

    def env_state(self) -> LocalEnvState | None:
        """The environments as a component of checkpoints; `None` on the stock path, where they cannot be saved."""
        return LocalEnvState(self) if self.is_lean() else None

    @property
    def position(self) -> tuple[int, int]:
        """Frames and batches collected so far; may be set before iterating."""
        return self._frames, self._iter

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self._frames, self._iter = position

    def is_lean(self) -> bool:
        """Whether the lean path supports the environment, the policy and the options."""
        return (
            fits_lean(self.env, self.policy)
            and not (self.compiled_policy or self.cudagraphed_policy)
            and self.replay_buffer is None
            and self.interruptor is None
            # TorchRL's multi-process collectors say -1 for none
            and (self.init_random_frames or 0) <= 0
            and not (self.reset_at_each_iter or self.set_truncated)
            and not (self.return_same_td or self._compact_next_keys)
        )

    @property
    def _written(self) -> list[Key]:
        """What the policy writes into the roots of a batch, and reads there beside the environment's entries."""
        after = self.carried.next_keys
        return [*(key for key in self.policy.out_keys if key not in after), *self.carried.keys]

    @property
    def away(self) -> torch.device | None:
        """The policy's device, if it is not the environments'."""
        return self.policy_device if self._cast_to_policy_device else None

    def _finish(self, roots: list[Any], decisions: list[Tensors], steps: list[Any]) -> TensorDictBase:
        if isinstance(self.env.base_env, TensorEnv):
            written = stack_tensors(decisions, self._written)
            written = {key: value.to(self.env.device) for key, value in written.items()}
            batch = assemble_tensors(self.env, roots, written, steps, self.storing_device)
            if self.track_traj_ids:
                done = batch.get(("next", "done")).squeeze(-1)
                batch.set(("collector", "traj_ids"), _number_trajectories(self, done))
        else:
            batch = self._assemble(roots, decisions, steps)
        for key, value in stack_tensors(decisions, self.carried.next_keys).items():
            batch.set(key, value.to(batch.device or self.env.device))
        if self.carried.keys:
            batch.set(("next", FIRST), torch.zeros_like(batch.get(FIRST)))
        batch.names = [*[None] * (batch.ndim - 1), "time"]
        return batch

    def _assemble(self, roots: list[Arrays], decisions: list[Tensors], steps: list[Arrays]) -> TensorDictBase:
        shape = (self.n_env, len(roots))
        rows = stack_arrays(roots)
        written = stack_tensors(decisions, self._written)
        if self.away is None:
            rows |= written
        for key in ("done", "terminated", "truncated"):
            rows[key] = torch.zeros(*shape, 1, dtype=torch.bool)
        batch = TensorDict(rows, batch_size=shape)
        if len(self.env.transform):
            batch = self.env.transform._call(batch)
        after = TensorDict(stack_arrays(steps), batch_size=shape)
        if len(self.env.transform):
            after = self.env.transform._step(batch, after)
        batch.set("next", after)
        if self.track_traj_ids:
            batch.set(("collector", "traj_ids"), _number_trajectories(self, after.get("done").squeeze(-1)))
        if self.away is not None:
            batch = self._store(batch, written, decisions)
        elif self.storing_device is not None:
            batch = batch.to(self.storing_device)
        return batch

    def _store(self, batch: TensorDict, written: Tensors, decisions: list[Tensors]) -> TensorDict:
        """A batch with what the policy wrote on another device, where batches are stored."""
        if self.storing_device is None or self.storing_device == self.env.device:
            return batch.update({key: value.to(self.env.device) for key, value in written.items()})
        if self.storing_device == self.away:
            # what the policy read is there already
            written = stack_tensors(decisions, self.policy.in_keys) | written
        stored = sent(batch.exclude(*written), self.storing_device)
        return stored.update({key: value.to(self.storing_device) for key, value in written.items()})


def _with_state(env: Any, policy: Any, options: dict[str, Any]) -> EnvBase:
    """The environment, with what a recurrent policy reads in it unless the lean path carries that."""
    if not isinstance(env, EnvBase):
        env = env(**(options.pop("create_env_kwargs", None) or {}))
    if any(map(options.get, _STOCK_ONLY)) or not fits_lean(env, policy):
        env = env if isinstance(env, TransformedEnv) else TransformedEnv(env)
        append_state(env, policy)
    return env


def _number_trajectories(collector: SyncDataCollector, done: Tensor) -> Tensor:
    """Trajectory ids `[num_envs, T]`: they continue the last rollout's, in the order in which episodes end."""
    key = ("collector", "traj_ids")
    carried = collector._carrier.get(key)
    current, pool = carried.to(done.device), collector._traj_pool
    ids = torch.empty(done.shape, dtype=current.dtype, device=done.device)
    for t, ended in enumerate(done.unbind(-1)):
        ids[:, t] = current
        if ended.any():
            current = current.masked_scatter(ended, pool.get_traj_and_increment(ended.sum(), device=done.device))
    collector._carrier.set(key, current.to(carried.device))
    return ids


def _check_parts(env: Any, policy: Any) -> None:
    """Refuse parts with which TorchRL would fail later."""
    if not isinstance(env, EnvBase):
        if not callable(env):
            raise ConfigError(f"the collector needs an environment, got a {type(env).__name__}; pass make_env(...)")
        return
    reads = getattr(policy, "in_keys", None)
    # TorchRL adds a recurrent policy's state
    if reads is None or recurrent_parts(policy):
        return
    specs = (env.full_observation_spec, env.full_state_spec, env.full_done_spec, env.full_action_spec)
    has = {key for spec in specs if spec is not None for key in spec.keys(True, True)}
    missing = [key for key in reads if key not in has and key not in policy.out_keys]
    if missing:
        raise ConfigError(
            f"the policy {type(policy).__name__} reads {missing}, which the environment does not have; it has "
            f"{sorted(map(str, has))}; change the policy's in_keys, or add a transform that writes them"
        )
