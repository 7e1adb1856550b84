"""`VectorEnv`: a Gymnasium vector environment as one batched TorchRL environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Composite, Unbounded
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.actions import cast_of
from rlpipe.pipelines.envs.backends.batch_checker import BatchChecker
from rlpipe.pipelines.envs.backends.dtypes import readable
from rlpipe.pipelines.envs.backends.snapshot import can_capture, capture, restore
from rlpipe.pipelines.envs.backends.sync import copy_observations
from rlpipe.pipelines.envs.entries import COUNTERS, Arrays, Key, leaves_of, name_of, named
from rlpipe.pipelines.envs.infos.keys import parse_keys
from rlpipe.pipelines.envs.infos.log import InfoLog
from rlpipe.pipelines.envs.infos.merging import merge_what_fits
from rlpipe.pipelines.envs.observations import ObservationReader, entries_of
from rlpipe.pipelines.envs.reset_seeds import ResetSeeds
from rlpipe.pipelines.envs.specs import action_spec, done_spec, observation_spec
from rlpipe.pipelines.envs.wrappers.learning import check_wrappers
from rlpipe.warn_once import notice

_COUNTED = frozenset({"reward", "terminated", "truncated", "done", *COUNTERS})
"""Numbers of a step, which become columns."""
Actions = np.ndarray | Arrays


class VectorEnv(EnvBase):
    """A Gymnasium vector environment with same-step autoreset, as a TorchRL environment of batch `[num_envs]`.

    A step's `next` holds the true next observation, also at the end of an episode; the observation of the reset that
    the vector environment made in the same step is the next root. The env itself keeps `step_count` (int64) and
    `episode_reward` (float32, the return so far), both `[num_envs, 1]`, as TorchRL's StepCounter and RewardSum would.

    Each entry of an observation has its own key, see `leaves_of`; one that is no Dict or Tuple is `observation`. Two
    entries have a meaning: `action_mask` (0 and 1, one number for each choice of a Discrete or MultiDiscrete action, in
    one or several parts; it becomes bool `[num_envs, choices]`, and modules that read it take allowed actions only) and
    `lives` (Discrete: those left in a game, int64). The action is `action`, with nested entries for a Dict or Tuple.

    TorchRL's `step` and `reset` call `advance` and `restart`, on NumPy arrays, which our collector calls itself.

    Args:
        envs: a vector environment in `AutoresetMode.SAME_STEP`, with spaces that are Box, Discrete, MultiDiscrete,
            MultiBinary, or Dict and Tuple of these.
        seed: of the first reset; `None` draws one from the operating system.
        reuses_arrays: whether the vector environment may write into arrays that it has returned; they are then copied.
        log_info: numbers of `info` that `train` logs, as in `EnvConfig`.

    Raises:
        ConfigError: another autoreset mode or kind of space, a wrapper that learns, or a bad `log_info`.
    """

    made_from: Any = None
    """The `EnvConfig` that `make_env` made it from."""

    def __init__(
        self,
        envs: gym.vector.VectorEnv,
        *,
        seed: int | None = None,
        reuses_arrays: bool = True,
        log_info: Sequence[str] = (),
    ) -> None:
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([envs.num_envs]))
        mode, env_id = envs.metadata.get("autoreset_mode"), getattr(envs.spec, "id", None)
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(f"VectorEnv needs AutoresetMode.SAME_STEP, this vector environment has {mode}")
        check_wrappers(envs, env_id)
        copy_observations(envs)
        merge_what_fits(envs)
        self.envs = envs
        space, actions = envs.single_observation_space, envs.single_action_space
        self.cast_action, leaves = cast_of(actions), leaves_of(actions, "action")
        self._action_shapes = {key: (envs.num_envs, *(leaf.space.shape or ())) for key, leaf in leaves.items()}
        read = readable(space)
        self.spaces = entries_of(read, actions)
        self._checker = BatchChecker(envs.num_envs, env_id, self.spaces)
        reader = ObservationReader(space, read, actions, self._checker, reuses_arrays=reuses_arrays)
        self._read, self._last, self._as_array = reader.read, reader.last, reader.as_array
        self.seeds = ResetSeeds(seed, envs.num_envs, takes_list=isinstance(envs, (SyncVectorEnv, AsyncVectorEnv)))
        self.infos = InfoLog(envs.num_envs, parse_keys(log_info))
        self._restarted, self.root = np.zeros(envs.num_envs, dtype=bool), Arrays()
        self.observation_spec = observation_spec(self.spaces, self.batch_size)
        self.full_action_spec = Composite(action=action_spec(actions, self.batch_size), shape=self.batch_size)
        self.reward_spec = Unbounded((envs.num_envs, 1), dtype=torch.float32)
        self.done_spec = done_spec(self.batch_size)

    def restart(self, mask: np.ndarray | None = None) -> Arrays:
        """Reset the environments of `mask` (`[num_envs]`, bool), or all, and return the new root.

        An environment that `advance` has just reset is not reset again.
        """
        if mask is None:
            observed = self._reset_envs(seed=self.seeds.take())
            self.root = _make_root(observed, np.ones(self.envs.num_envs, dtype=bool), {})
        else:
            pending = mask & ~self._restarted
            if pending.any():
                observed = self._reset_envs(options={"reset_mask": pending})
                self.root = _make_root(observed, pending, self.root)
        self._restarted = np.zeros_like(self._restarted)
        return self.root

    def _reset_envs(self, **options: Any) -> Arrays:
        try:
            observed = self._read(self.envs.reset(**options)[0])
        except RlpipeError:
            raise
        except Exception as error:
            raise self._checker.as_error(error, "a reset") from error
        self._checker.check_reset(observed)
        return observed

    def advance(self, action: Actions) -> Arrays:
        """Step every environment once; `root` becomes the next one.

        Args:
            action: `[num_envs, *action]`, as in the action spec; for a Dict or Tuple such an array for each of
                `action_keys`. It is not changed.

        Returns:
            The `next` entries of the step, one array per key: `[num_envs]`, observations `[num_envs, *observation]`.

        Raises:
            TrainingError: an environment raised, or what it returned is not finite or does not fit its spaces.
        """
        self._checker.begin_step()
        given: Arrays = action if isinstance(action, dict) else {"action": action}
        for key, shape in self._action_shapes.items():
            if key not in given or given[key].shape != shape:
                self._refuse_action(given)
        try:
            observation, reward, terminated, truncated, info = self.envs.step(self.cast_action(action))
            observed = self._read(observation)
        except RlpipeError:
            raise
        except Exception as error:
            raise self._checker.as_error(error) from error
        self._checker.check_step(observed, reward, terminated, truncated)
        done = terminated | truncated
        # takes a third of the time of `any`
        ended = np.count_nonzero(done) > 0
        if ended or self.infos.keys:
            self.infos.read(info, done, ended=ended)
        after = {
            **self._last(observed, self._checker.final_of(info) if ended else None, done),
            "reward": reward.astype(np.float32),
            "terminated": self._as_array(terminated),
            "truncated": self._as_array(truncated),
            "done": done,
            "step_count": self.root["step_count"] + 1,
            "episode_reward": self.root["episode_reward"] + reward,
        }
        root = _make_root(observed, done if ended else None, after)
        # faster than setting attributes, which modules check
        self.__dict__.update(root=root, _restarted=done.copy())
        return after

    def _refuse_action(self, given: Arrays) -> NoReturn:
        shapes = {key: array.shape for key, array in given.items()}
        raise ConfigError(
            f"the policy's action has shape {_shown(shapes)}, expected {_shown(self._action_shapes)}: one of "
            f"{self.envs.single_action_space} for each of {self.envs.num_envs} environments"
        )

    def can_capture(self) -> bool:
        """Whether `get_state` and `set_state` cover the environments' whole state."""
        return can_capture(self.envs)

    def get_state(self) -> dict[str, Any]:
        """The environments' state in the middle of episodes, for a checkpoint; only if `can_capture()`."""
        return {"envs": capture(self.envs), "root": named(self.root), "restarted": self._restarted}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`; raises `ValueError` if it is of other environments."""
        check_like({"envs": None, "root": named(self.root), "restarted": self._restarted}, {**state, "envs": None})
        restore(self.envs, state["envs"])
        # copies, because an array that came through a pipe may also be one of the environments'
        self.root = {key: state["root"][name_of(key)].copy() for key in self.root}
        self._restarted = state["restarted"].copy()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return as_tensordict(self.advance(self.actions_in(tensordict)))

    def actions_in(self, step: Mapping[Key, torch.Tensor] | TensorDictBase) -> Actions:
        """The actions of a step as `advance` takes them."""
        arrays = {key: step.get(key).detach().cpu().numpy() for key in self._action_shapes}  # type: ignore[union-attr]
        return arrays.get("action", arrays)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        return as_tensordict(self.restart(None if mask is None else mask.cpu().numpy().reshape(-1)))

    def _set_seed(self, seed: int | None) -> None:
        self.seeds.first = seed
        self.seeds.derive(None)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the vector environment, and with it its processes; a failure is only shown as a notice."""
        # whatever `is_closed` says: for TorchRL an environment that has not stepped yet is closed
        try:
            self.envs.close()
        except Exception as error:
            notice(f"rlpipe: {self._checker.as_error(error, 'close')}")
        super().close(raise_if_closed=raise_if_closed)


def as_tensor(key: Key, array: np.ndarray) -> torch.Tensor:
    """An array of `VectorEnv.root` or `advance` as the tensor of its spec, sharing memory where it can."""
    if key not in _COUNTED:
        return torch.from_numpy(array)
    return torch.from_numpy(array.astype(np.float32) if key == "episode_reward" else array).unsqueeze(-1)


def as_tensordict(arrays: Arrays) -> TensorDict:
    """A root or a step as a TensorDict; numbers become columns `[num_envs, 1]`."""
    tensors = {key: as_tensor(key, array) for key, array in arrays.items()}
    return TensorDict(tensors, batch_size=arrays["step_count"].shape)


def _shown(shapes: Mapping[Key, tuple[int, ...]]) -> object:
    """The shape of the one action, or all by name."""
    each = {name: list(shape) for name, shape in named(shapes).items()}
    return each["action"] if list(each) == ["action"] else each


def _make_root(observed: Arrays, fresh: np.ndarray | None, counted: Arrays) -> Arrays:
    """Observations, and counters that are 0 for environments of `fresh`, which begin an episode."""
    if fresh is None:
        return {**observed, **{key: counted[key].copy() for key in COUNTERS}}
    return {
        **observed,
        "step_count": np.where(fresh, 0, counted.get("step_count", 0)),
        "episode_reward": np.where(fresh, 0.0, counted.get("episode_reward", 0.0)),
    }
