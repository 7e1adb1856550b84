"""Environments that do what Gymnasium allows and few expect, in a file of their own because worker processes import it.

Each counts its steps, and `Plain` does the same as `Reuses`, `Shares` and `Lends` with new arrays.
"""

import warnings

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

STEPS = 5


class Plain(gym.Env):
    """Observes how many steps it has taken, in an episode of five."""

    observation_space = Box(0.0, 100.0, (2,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.out(), {}

    def step(self, action):
        self.count += 1
        return self.out(), float(self.count), False, self.count >= STEPS, {}

    def out(self):
        return np.full(2, self.count, np.float32)


class Reuses(Plain):
    """Uses one array for every observation, and one for every reward and flag."""

    def __init__(self):
        self.buffer, self.reward, self.flag = np.zeros(2, np.float32), np.zeros(1), np.zeros((), np.bool_)

    def out(self):
        self.buffer[:], self.reward[:], self.flag[...] = self.count, self.count, self.count >= STEPS
        return self.buffer

    def step(self, action):
        observation, _, terminated, _, info = super().step(action)
        return observation, self.reward, terminated, self.flag, info


class Shares(Plain):
    """Has one array for the observations of all copies, read-only and in Fortran order."""

    buffer = np.zeros((2, 2), np.float32, order="F")

    def out(self):
        Shares.buffer[0] = self.count
        view = Shares.buffer[0]
        view.flags.writeable = False
        return view


class Masked(Plain):
    """Has a mask and lives, in new arrays."""

    observation_space = Dict(
        observation=Plain.observation_space, action_mask=Box(0, 1, (2,), np.int8), lives=Discrete(9)
    )

    def out(self):
        mask = np.array([1, self.count % 2], np.int8)
        return {"observation": np.full(2, self.count, np.float32), "action_mask": mask, "lives": self.count}


class MaskedReuses(Masked):
    """The same in one dict of arrays, which it changes."""

    def __init__(self):
        self.kept = {
            "observation": np.zeros(2, np.float32),
            "action_mask": np.ones(2, np.int8),
            "lives": np.zeros((), int),
        }

    def out(self):
        for key, value in super().out().items():
            self.kept[key][...] = value
        return self.kept


class Moves(Plain):
    """Earns minus the size of its action, which it scales in place, and keeps."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def step(self, action):
        action *= 10.0
        self.kept = action
        observation, _, *rest = super().step(action)
        return observation, -float(np.abs(action).sum()), *rest


class Typed(Plain):
    """Observes in a type, within a range."""

    def __init__(self, dtype, high=100):
        self.observation_space = Box(0, high, (2,), np.dtype(dtype))

    def out(self):
        return np.full(
            2, self.observation_space.high.max() if self.count == STEPS else self.count, self.observation_space.dtype
        )


class Told(Plain):
    """Tells in each info what does not go together with what other copies, or other steps, tell."""

    made = 0

    def __init__(self):
        Told.made += 1
        self.number = Told.made

    def info(self):
        odd = [np.zeros(self.count), "text", None, {"a": np.ones(self.number)}, object, 2**128 + self.count]
        return {
            "odd": odd[(self.number + self.count) % len(odd)],
            7: self.number,
            "path": np.zeros((self.count, self.number)),
        }

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {**self.info(), "seed": self.np_random_seed, "lambda": lambda: 0}

    def step(self, action):
        *rest, _ = super().step(action)
        success = [True, np.bool_(True), 1, 0.5, np.float32(0.25), "yes"][self.number % 6]
        return *rest, {**self.info(), "is_success": success, "lambda": lambda: 0}


class Unclosable(Plain):
    """Cannot be closed; and with `fails`, its third step fails before."""

    closed = 0

    def __init__(self, fails=False):
        self.fails = fails

    def step(self, action):
        if self.fails and self.count == 2:
            raise RuntimeError("the wheel came off")
        return super().step(action)

    def close(self):
        Unclosable.closed += 1
        raise ConnectionError("no simulator")


class Warns(Plain):
    """Warns when it is made, reset and stepped, each time with another number."""

    made = 0

    def __init__(self):
        Warns.made += 1
        warnings.warn(f"made, of {Warns.made}", stacklevel=1)

    def reset(self, **options):
        warnings.warn("reset", stacklevel=1)
        return super().reset(**options)

    def step(self, action):
        result = super().step(action)
        warnings.warn(f"step {self.count}", stacklevel=1)
        return result


for kind in (Plain, Reuses, Shares, Masked, MaskedReuses, Moves, Told, Unclosable, Warns):
    gym.register(f"tests/{kind.__name__}-v0", kind)
gym.register("tests/Fails-v0", Unclosable, kwargs={"fails": True})
