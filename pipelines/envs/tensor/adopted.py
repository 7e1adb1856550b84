"""`AdoptedEnv`: a batched environment of TorchRL's kind, with the counters and the interface that rlpipe uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.entries import COUNTERS, Key, name_of
from rlpipe.pipelines.envs.tensor.env import FLAGS, Move, Spaces, TensorEnv, Tensors

_SUCCESS = "is_success"


class AdoptedEnv(TensorEnv):
    """A TorchRL environment of batch `[num_envs]`, stepped by its own `step` and reset by its own partial `reset`.

    A step costs what TorchRL's `step` costs, a copy of its observations on their device (environments may write into
    tensors that they have returned), and one wait of the host, to know whether an episode has ended.

    An environment with `get_state()` and `set_state(state)` is saved in checkpoints in the middle of its episodes; a
    state consists of dicts, lists, numbers, text and tensors. Any other is reset at each checkpoint, by `set_seed`.

    Args:
        env: the environment; its counters, if it has any of the same names, are replaced.
        name: of it, in messages.
        limit: truncate episodes after so many steps; `None` leaves it to the environment.
        seed: of the first reset, by `set_seed`.

    Raises:
        ConfigError: its batch size, its action, its reward or its flags have another form than rlpipe takes.
    """

    def __init__(self, env: EnvBase, name: str, *, limit: int | None, seed: int | None) -> None:
        _check_form(env, name)
        batch = env.batch_size
        leaves = {key: spec for key, spec in env.observation_spec.items(True, True) if key not in COUNTERS}
        observed = {key: space_of(spec[0], key) for key, spec in leaves.items()}
        single = observed["observation"] if list(observed) == ["observation"] else None
        single = single or spaces.Dict({name_of(key): each for key, each in observed.items()})
        action = space_of(env.action_spec[0], "action")
        device = torch.device("cpu") if env.device is None else env.device
        super().__init__(Spaces(batch[0], single, action), device, limit=limit, seed=seed)
        seen = Composite(shape=batch)
        for key, spec in leaves.items():
            seen[key] = spec.clone()
        self._set_specs(seen.to(device), env.action_spec.clone().to(device))
        self._inner, self._keys, self._spaces = env, list(observed), observed
        self._cuts = "truncated" in env.done_spec.keys()  # noqa: SIM118 - a Composite is no Mapping
        self._carried = self._stepped = TensorDict(batch_size=batch, device=device)

    @property
    def spaces(self) -> dict[Any, spaces.Space[Any]]:
        return self._spaces

    def _move(self, action: Tensor) -> Move:
        given = self._carried.set("action", action.to(self.action_spec.dtype))
        self.__dict__["_stepped"] = stepped = self._inner.step(given)
        after = stepped.get("next").clone()
        stepped.set("next", after)
        flags = [after.get(key).reshape(-1) for key in ("terminated", *(["truncated"] if self._cuts else []))]
        return Move({key: after.get(key) for key in self._keys}, after.get("reward").reshape(-1).float(), *flags)

    def _renew(self, done: Tensor, after: Tensors) -> Tensors:
        following = self._stepped.get("next")
        for key in FLAGS if self._cuts else FLAGS[:2]:
            following.set(key, after[key].unsqueeze(-1))
        root = step_mdp(self._stepped, exclude_action=True)
        if done.any():
            self._note(done, after)
            root = self._inner.reset(root.set("_reset", done.unsqueeze(-1))).clone()
        return self._carry(root)

    def _note(self, done: Tensor, after: Tensors) -> None:
        """Note the successes of the environments of `done`, if an info reader put them among the observations."""
        reported = {_SUCCESS: after[_SUCCESS].cpu().numpy().reshape(-1)} if _SUCCESS in self._keys else {}
        self.infos.read(reported, done.cpu().numpy(), ended=True)

    def _begin(self, seed: int | None) -> Tensors:
        if seed is not None:
            self._inner.set_seed(seed)
        return self._carry(self._inner.reset().clone())

    def _begin_some(self, mask: Tensor) -> Tensors:
        given = self._carried.clone().set("_reset", mask.unsqueeze(-1))
        return self._carry(self._inner.reset(given).clone())

    def _carry(self, root: TensorDictBase) -> Tensors:
        root = root.exclude("_reset", "reward")
        self.__dict__["_carried"] = root
        return {key: root.get(key) for key in self._keys}

    def can_capture(self) -> bool:
        return all(callable(getattr(type(self._inner), name, None)) for name in ("get_state", "set_state"))

    def _capture(self) -> dict[str, Any]:
        return {"state": self._inner.get_state(), "carried": self._carried.to_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._inner.set_state(state["state"])
        self._carried = TensorDict(state["carried"], batch_size=self.batch_size, device=self.device)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment."""
        # whatever `is_closed` says, as in `VectorEnv.close`
        self._inner.close(raise_if_closed=False)
        super().close(raise_if_closed=raise_if_closed)


def _check_form(env: EnvBase, name: str) -> None:
    """Refuse what training would not understand, in one line."""
    batch = env.batch_size
    if len(batch) != 1:
        raise ConfigError(f"{name} has batch size {list(batch)}; rlpipe takes one dimension, the environments")
    for what, keys, wanted in (
        ("actions", env.action_keys, ["action"]),
        ("rewards", env.reward_keys, ["reward"]),
        ("flags", env.done_keys, list(FLAGS)),
    ):
        if not set(keys) <= set(wanted) or not keys:
            raise ConfigError(
                f"{name} has the {what} {_shown(keys)}; rlpipe takes {_shown(wanted)}: one agent for each environment"
            )
    if isinstance(env.action_spec, OneHot):
        raise ConfigError(f"{name} takes one-hot actions; make it with categorical_action_encoding=True")
    for what, spec in (("reward", env.reward_spec), ("done flag", env.full_done_spec["done"])):
        if spec.shape != (*batch, 1):
            raise ConfigError(f"{name} has a {what} of shape {list(spec.shape)}; expected {[*batch, 1]}")


def space_of(spec: TensorSpec, key: Key) -> spaces.Space[Any]:
    """The Gymnasium space of one environment's entry; one that rlpipe has no use for is a `ConfigError`."""
    shape = tuple(spec.shape)
    if isinstance(spec, MultiCategorical):
        return spaces.MultiDiscrete(np.broadcast_to(spec.nvec.cpu().numpy(), shape))
    if isinstance(spec, (Binary, OneHot)) or (isinstance(spec, Unbounded) and spec.dtype is torch.bool):
        return spaces.MultiBinary(shape)
    if isinstance(spec, Categorical) and int(spec.space.n) > 0:
        choices = int(spec.space.n)
        return spaces.MultiDiscrete(np.full(shape, choices)) if shape else spaces.Discrete(choices)
    if isinstance(spec, (Bounded, Unbounded)):
        return _box(spec, shape)
    raise ConfigError(f"the {name_of(key)} is a {type(spec).__name__} of TorchRL's, which rlpipe does not take")


def _box(spec: Bounded | Unbounded, shape: tuple[int, ...]) -> spaces.Box:
    dtype = torch.zeros(0, dtype=spec.dtype).numpy().dtype
    if isinstance(spec, Bounded):
        low, high = (each.expand(shape).cpu().numpy() for each in (spec.space.low, spec.space.high))
        return spaces.Box(low, high, shape, dtype)
    least, most = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return spaces.Box(least, most, shape, dtype)


def _shown(keys: Any) -> str:
    return ", ".join(map(name_of, keys)) or "none"
