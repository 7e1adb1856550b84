"""`VectorEnv`: a Gymnasium vector environment as one batched TorchRL environment."""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase, TransformedEnv

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.actions import ActionCast
from rlpipe.pipelines.envs.backends.batch_checker import Arrays, Guard
from rlpipe.pipelines.envs.backends.dtypes import readable
from rlpipe.pipelines.envs.backends.snapshot import can_capture, capture, restore
from rlpipe.pipelines.envs.backends.sync import copy_observations
from rlpipe.pipelines.envs.backends.wrappers import check_wrappers
from rlpipe.warn_once import notice

OBSERVED = ("observation", "action_mask", "lives")
"""What an observation consists of; the mask, and lives, are there only where the environment has them."""

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class VectorEnv(EnvBase):
    """A Gymnasium vector environment with same-step autoreset, as a TorchRL environment of batch `[num_envs]`.

    A step's `next` holds the true next observation, the last one of a finished episode included; the reset that the
    vector environment made in the same step becomes the next root. The env itself keeps `step_count` (int64) and
    `episode_reward` (float32, the return so far), both `[num_envs, 1]`, as TorchRL's StepCounter and RewardSum would.

    An observation that is a Dict of `observation` and `action_mask` (a vector of 0 and 1, one number an action) gives
    both entries; the mask is bool, and modules that are told of it take allowed actions only. A third entry may be
    `lives`, Discrete: those that are left of a game, int64 `[num_envs]`.

    Underneath is an interface of NumPy arrays, `root` and `advance`, which TorchRL's `step` and our collector share.

    Args:
        envs: a vector environment in `AutoresetMode.SAME_STEP`, with Box or Discrete actions and observations.
        seed: of the first reset; `None` draws one from the operating system.
        reuses_arrays: whether the vector environment may later write into arrays that it has returned; they are then
            copied.

    Raises:
        ConfigError: another autoreset mode or kind of space, or a wrapper that learns.
    """

    def __init__(self, envs: gym.vector.VectorEnv, *, seed: int | None = None, reuses_arrays: bool = True) -> None:
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([envs.num_envs]))
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(f"VectorEnv needs AutoresetMode.SAME_STEP, this vector environment has {mode}")
        check_wrappers(envs, getattr(envs.spec, "id", None))
        copy_observations(envs)
        self.envs = envs
        self.cast_action = ActionCast(envs.single_action_space)
        self._action_shape = (envs.num_envs, *(envs.single_action_space.shape or ()))
        self.spaces = _entries(readable(envs.single_observation_space), envs.single_action_space)
        self._guard = Guard(envs.num_envs, getattr(envs.spec, "id", None), self.spaces)
        self._discrete_observation = isinstance(self.spaces["observation"], Discrete)
        self._observation_start = _start(self.spaces["observation"])
        self._read_as = _read_as(envs.single_observation_space, self.spaces["observation"])
        self._take = functools.partial(np.array, order="C") if reuses_arrays else np.ascontiguousarray
        self._seed = self._next_seed = seed
        self._first = 0
        self._successes: list[tuple[int, int, float]] | None = None
        self._since = 0
        self._restarted = np.zeros(envs.num_envs, dtype=bool)
        self.root: Arrays = {}
        self._make_specs()

    def _make_specs(self) -> None:
        column = torch.Size([*self.batch_size, 1])
        observed = {key: _spec(space, key, self.batch_size) for key, space in self.spaces.items()}
        self.observation_spec = Composite(
            **observed,
            step_count=Unbounded(column, dtype=torch.int64),
            episode_reward=Unbounded(column, dtype=torch.float32),
            shape=self.batch_size,
        )
        self.action_spec = _action_spec(self.envs.single_action_space, self.batch_size)
        self.reward_spec = Unbounded(column, dtype=torch.float32)
        self.done_spec = Composite(
            {key: Categorical(2, column, dtype=torch.bool) for key in ("done", "terminated", "truncated")},
            shape=self.batch_size,
        )

    def restart(self, mask: np.ndarray | None = None) -> Arrays:
        """Reset the environments of `mask` (`[num_envs]`, bool), or all, and return the new root.

        An environment that has just been reset by `advance` itself is not reset a second time.
        """
        if mask is None:
            observed = self._reset_envs(seed=self._draw_seed())
            self.root = self._make_root(observed, np.ones(self.envs.num_envs, dtype=bool), {})
        else:
            pending = mask & ~self._restarted
            if pending.any():
                observed = self._reset_envs(options={"reset_mask": pending})
                self.root = self._make_root(observed, pending, self.root)
        self._restarted = np.zeros_like(self._restarted)
        return self.root

    def _reset_envs(self, **options: Any) -> Arrays:
        try:
            observed = self._read(self.envs.reset(**options)[0])
        except RlpipeError:
            raise
        except Exception as error:
            raise self._guard.told(error, "a reset") from error
        self._guard.check_reset(observed)
        return observed

    def advance(self, action: np.ndarray) -> Arrays:
        """Step every environment once; `root` becomes the next one.

        Args:
            action: `[num_envs, *action]`, as in the action spec; it is not changed.

        Returns:
            The `next` entries of the step, one array a key: `[num_envs]`, observations `[num_envs, *observation]`.

        Raises:
            TrainingError: an environment raised, or what it returned is not finite or does not fit its spaces.
        """
        self._guard.begin_step()
        if action.shape != self._action_shape:
            raise ConfigError(
                f"the policy's action has shape {list(action.shape)}, expected {list(self._action_shape)}: one of "
                f"{self.envs.single_action_space} for each of {self.envs.num_envs} environments"
            )
        try:
            observation, reward, terminated, truncated, info = self.envs.step(self.cast_action(action))
            observed = self._read(observation)
        except RlpipeError:
            raise
        except Exception as error:
            raise self._guard.told(error) from error
        self._guard.check_step(observed, reward, terminated, truncated)
        done = terminated | truncated
        # a third of the time of `any`
        ended = np.count_nonzero(done) > 0
        if ended and self._successes is not None and "final_info" in info:
            self._note_successes(info["final_info"], done)
        after = {
            **self._last(observed, info["final_obs"] if ended else None, done),
            "reward": reward.astype(np.float32),
            "terminated": self._take(terminated),
            "truncated": self._take(truncated),
            "done": done,
            "step_count": self.root["step_count"] + 1,
            "episode_reward": self.root["episode_reward"] + reward,
        }
        root = self._make_root(observed, done if ended else None, after)
        # an environment of TorchRL is a module, which looks for long at each attribute that it is given
        self.__dict__.update(root=root, _restarted=done.copy(), _since=self._since + 1)
        return after

    def _last(self, observed: Arrays, final: np.ndarray | None, done: np.ndarray) -> Arrays:
        """What a step led to: where it ended an episode that episode's last observation, else the one `observed`."""
        # copies, because the caller may write into what it gets
        if final is None:
            return {key: array.copy() for key, array in observed.items()}
        state = observed["observation"]
        if len(observed) == 1 and final.shape == state.shape and final.dtype != object:
            # a whole batch instead of one by one, which takes fewer operations
            merged = np.where(done.reshape(-1, *[1] * (state.ndim - 1)), self._read(final)["observation"], state)
            if merged.dtype == state.dtype and self._guard.accepts(merged):
                return {"observation": merged}
        last = self._read_final(final[done])
        self._guard.check_final(last, done)
        led_to = {key: array.copy() for key, array in observed.items()}
        for key, array in last.items():
            led_to[key][done] = array
        return led_to

    def tell_successes(self) -> None:
        """From now on, keep what environments say of `is_success` in the info of an episode's last step."""
        self.__dict__.update(_successes=[], _since=0)

    def take_successes(self) -> list[tuple[int, int, float]]:
        """What was kept since the last call: the step, from 0; the environment; the success, 0 or 1 or as told."""
        taken = self._successes or []
        self.tell_successes()
        return taken

    def _note_successes(self, told: Any, done: np.ndarray) -> None:
        if not isinstance(told, dict) or "is_success" not in told or self._successes is None:
            return
        # a vector environment of one piece may tell of all, and leave out of whom
        for index in np.flatnonzero(done & told.get("_is_success", done)):
            # an info may hold anything
            with contextlib.suppress(TypeError, ValueError):
                success = float(told["is_success"][index])
                if math.isfinite(success):
                    self._successes.append((self._since, int(index), success))

    def can_capture(self) -> bool:
        """Whether `get_state` and `set_state` know all there is to know of the environments."""
        return can_capture(self.envs)

    def get_state(self) -> dict[str, Any]:
        """The environments in the middle of their episodes, for a checkpoint; only if `can_capture()`."""
        return {"envs": capture(self.envs), "root": dict(self.root), "restarted": self._restarted}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state`.

        Raises:
            ValueError: it is one of other environments.
        """
        check_like({"envs": None, "root": dict(self.root), "restarted": self._restarted}, {**state, "envs": None})
        restore(self.envs, state["envs"])
        # copies, because what comes through a pipe may be one array with one of the environments' own
        self.root = {key: array.copy() for key, array in state["root"].items()}
        self._restarted = state["restarted"].copy()

    @property
    def first_seed(self) -> int | None:
        """Of the first reset."""
        return self._seed

    def seed_as(self, first: int) -> None:
        """Make the next reset that of the environments from `first` on of a larger number with the same first seed.

        So a few environments play one after the other what many play at once.
        """
        self._next_seed, self._first = self._seed, first

    def reseed(self, moment: int | None) -> None:
        """Make the next reset one with seeds that follow from the first seed and a moment, such as a frame count.

        Without a moment, it repeats the first reset.
        """
        self._next_seed = self._seed
        if self._seed is not None and moment is not None:
            sequence = np.random.SeedSequence(self._seed, spawn_key=(moment,))
            self._next_seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def _read(self, observation: Any) -> Arrays:
        """The entries of a batch of observations, `[num_envs, ...]` each.

        A Discrete space may start elsewhere than at 0; TorchRL's Categorical does not. Rows are made contiguous because
        matrix products round differently otherwise, and every path must agree.
        """
        arrays = observation if isinstance(observation, dict) else {"observation": observation}
        state = arrays["observation"]
        if self._discrete_observation:
            state = state.astype(np.int64) - self._observation_start
        read = {"observation": self._take(state, dtype=self._read_as)}
        if "action_mask" in self.spaces:
            read["action_mask"] = arrays["action_mask"].astype(bool)
        if "lives" in self.spaces:
            read["lives"] = self._take(arrays["lives"])
        return read

    def _read_final(self, observations: np.ndarray) -> Arrays:
        """The same for final observations: a batch as well, or as most vector environments keep them, one by one."""
        if observations.dtype != object:
            return self._read(observations)
        rows = list(observations)
        if isinstance(rows[0], dict):
            return self._read({key: np.stack([row[key] for row in rows]) for key in rows[0]})
        return self._read(np.stack(rows))

    def _make_root(self, observed: Arrays, fresh: np.ndarray | None, counted: Arrays) -> Arrays:
        if fresh is None:
            return {**observed, **{key: counted[key].copy() for key in ("step_count", "episode_reward")}}
        return {
            **observed,
            "step_count": np.where(fresh, 0, counted.get("step_count", 0)),
            "episode_reward": np.where(fresh, 0.0, counted.get("episode_reward", 0.0)),
        }

    def _draw_seed(self) -> Any:
        """Seeds of the next reset: an independent one for each environment, where environments take their own."""
        seed, self._next_seed = self._next_seed, None
        first, self._first = self._first, 0
        if seed is None:
            return None
        last = first + self.envs.num_envs
        # among so many words of 32 bits, some are the same
        words = np.random.SeedSequence(seed).generate_state(2 * last)
        seeds = [int(word) for word in dict.fromkeys(words)][first:last]
        takes_a_list = isinstance(self.envs, (gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv))
        return seeds if takes_a_list else seeds[0]

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.to_tensordict(self.advance(tensordict.get("action").detach().cpu().numpy()))

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = tensordict.get("_reset", None) if tensordict is not None else None
        return self.to_tensordict(self.restart(None if mask is None else mask.cpu().numpy().reshape(-1)))

    def _set_seed(self, seed: int | None) -> None:
        self._seed = self._next_seed = seed

    def to_tensordict(self, arrays: Arrays) -> TensorDict:
        """Entries of a root or a step as tensors: numbers become columns `[num_envs, 1]`."""
        return TensorDict({key: as_tensor(key, array) for key, array in arrays.items()}, batch_size=self.batch_size)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the vector environment, and with it its processes; a failure is a notice only."""
        # not a matter of `is_closed`, which TorchRL also says of an environment that has not yet taken a step
        try:
            self.envs.close()
        except Exception as error:
            notice(f"rlpipe: {self._guard.told(error, 'close')}")
        super().close(raise_if_closed=raise_if_closed)


class MaskedEnv(TransformedEnv):
    """A `TransformedEnv` over a `VectorEnv` with an `action_mask`: its random actions are allowed ones.

    Not a matter of `VectorEnv` itself, because TorchRL lets no transform change the actions of an environment that has
    a `rand_action` of its own, its `ActionMask` included.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Draw uniformly among the actions that `tensordict` allows; with TorchRL's `ActionMask`, as that does."""
        drawn: TensorDictBase = super().rand_action(tensordict)
        mask = drawn.get("action_mask", None)
        if mask is None or getattr(self.action_spec, "mask", None) is not None:
            return drawn
        return drawn.set("action", torch.rand(mask.shape).masked_fill(~mask, -1.0).argmax(-1))


class UnboundedEnv(TransformedEnv):
    """A `TransformedEnv` over a `VectorEnv` whose Box actions lack bounds: its random actions are finite all the same.

    Where a bound is missing they are standard normal, or as far from the other one as the size of such a number.
    """

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """See the class."""
        drawn: TensorDictBase = super().rand_action(tensordict)
        action, (low, high) = drawn.get("action"), self.action_spec.space
        normal = torch.randn(action.shape, dtype=action.dtype)
        beyond = torch.where(
            low.isfinite(), low + normal.abs(), torch.where(high.isfinite(), high - normal.abs(), normal)
        )
        return drawn.set("action", torch.where(low.isfinite() & high.isfinite(), action, beyond))


def transformed_class(env: VectorEnv) -> type[TransformedEnv]:
    """What to put around it, for its random actions to be ones that it takes."""
    if "action_mask" in env.spaces:
        return MaskedEnv
    space = env.envs.single_action_space
    return UnboundedEnv if isinstance(space, Box) and not space.is_bounded("both") else TransformedEnv


def as_tensor(key: str, array: np.ndarray) -> torch.Tensor:
    """An array of `VectorEnv.root` or `advance` as the tensor of its spec, sharing memory where it can."""
    if key == "episode_reward":
        array = array.astype(np.float32)
    tensor = torch.from_numpy(array)
    return tensor if key in OBSERVED else tensor.unsqueeze(-1)


def _entries(space: Space[Any], actions: Space[Any]) -> dict[str, Space[Any]]:
    """The spaces of an observation by their keys."""
    if not isinstance(space, Dict):
        return {"observation": space}
    if "observation" not in space.spaces or not set(space) <= set(OBSERVED):
        raise ConfigError(
            f"the observation space is a Dict of {sorted(space)}; rlpipe takes one of 'observation', 'action_mask' "
            "and 'lives'"
        )
    if "action_mask" in space.spaces:
        mask = space["action_mask"]
        if not isinstance(actions, Discrete):
            raise ConfigError(f"the action space is {actions}; an action_mask needs Discrete actions")
        if mask.shape != (actions.n,):
            raise ConfigError(f"the action_mask has shape {mask.shape}, expected ({actions.n},): one number an action")
    return dict(space.items())


def _read_as(own: Space[Any], observation: Space[Any]) -> Any:
    """The type to read observations as, where it is not the environment's own."""
    own = own["observation"] if isinstance(own, Dict) else own
    return None if own.dtype == observation.dtype else observation.dtype


def _start(space: Space[Any]) -> int:
    return int(space.start) if isinstance(space, Discrete) else 0


def _spec(space: Space[Any], key: str, batch: torch.Size) -> TensorSpec:
    if key == "action_mask" and space.shape is not None:
        return Binary(space.shape[0], torch.Size([*batch, *space.shape]), dtype=torch.bool)
    if isinstance(space, Discrete):
        return Categorical(int(space.n), batch, dtype=torch.int64)
    if isinstance(space, Box):
        return _bounded(space.low, space.high, batch)
    raise ConfigError(f"the {key} space is {space}; rlpipe takes Box and Discrete spaces")


def _action_spec(space: Space[Any], batch: torch.Size) -> TensorSpec:
    """Actions as a policy draws them: those of a Box of integers are floats, as `ActionCast` takes them."""
    if not isinstance(space, Box):
        return _spec(space, "action", batch)
    dtype = np.dtype(space.dtype if space.dtype in _FLOATS else np.float64)
    # twice the bounds must be a number, or a uniform draw between them would be none
    most = float(np.finfo(dtype).max) / 2
    low, high = (bound.astype(dtype) for bound in (space.low, space.high))
    low, high = (np.where(np.isfinite(each), each.clip(-most, most), each) for each in (low, high))
    return _bounded(low, high, batch)


def _bounded(low: np.ndarray, high: np.ndarray, batch: torch.Size) -> TensorSpec:
    lowest, highest = (torch.from_numpy(each).expand(*batch, *each.shape).clone() for each in (low, high))
    return Bounded(lowest, highest, shape=lowest.shape, dtype=lowest.dtype)
