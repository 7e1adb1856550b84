"""Environments with one fault each, in a file of their own because worker processes import it.

Of several, the second one goes wrong, in its third step or its second reset; the others are sound.
"""

import itertools
import multiprocessing

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

BOX = Box(-1.0, 1.0, (4,), np.float32)
WIDE = Box(-np.inf, np.inf, (2, 2), np.float64)
PIXELS = Box(0, 255, (4,), np.uint8)
MASKED = Dict({"observation": BOX, "action_mask": Box(0, 1, (2,), np.int8)})
SOUND = np.zeros(4, np.float32)
made = itertools.count()


class Faulty(gym.Env):
    """Sound for two steps; then `fault` says what a step returns, and `reset` what the second reset does.

    An episode has three steps if it is `reset` that goes wrong.
    """

    action_space = Discrete(2)

    def __init__(self, space=BOX, fault=None, reset=None):
        self.observation_space, self._fault, self._reset = space, fault, reset
        self._steps = self._resets = 0
        worker = multiprocessing.parent_process() is not None
        self._faulty = multiprocessing.current_process().name.endswith("-1") if worker else next(made) % 2 == 1
        space.seed(0)
        self._sound = space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._resets += 1
        if self._reset is not None and self._faulty and self._resets == 2:
            return self._reset()
        return self._sound, {}

    def step(self, action):
        self._steps += 1
        if self._fault is not None and self._faulty and self._steps == 3:
            return self._fault()
        return self._sound, 1.0, self._reset is not None and self._steps % 3 == 0, False, {}


def fail(error):
    raise error


def step(observation=SOUND, reward=1.0, terminated=False, truncated=False, info=None):
    """A fault that returns this."""
    return lambda: (observation, reward, terminated, truncated, {} if info is None else info)


def spoiled(value, shape=(4,), dtype=np.float32):
    """Zeros, and `value` as the last but one."""
    array = np.zeros(shape, dtype)
    array.flat[-2] = value
    return array


# what goes wrong, and the message after "environment 1 of 2 (id) failed in ..." and the step
IN_STEP = {
    "Raises": ({"fault": lambda: fail(RuntimeError("the pole broke"))}, "RuntimeError: the pole broke"),
    "Asserts": ({"fault": lambda: fail(AssertionError())}, "AssertionError without a message, in line "),
    "Short": ({"fault": step(np.zeros(1, np.float32))}, "key 'observation' has shape [1], expected [4]"),
    "Tall": ({"fault": step(np.zeros((4, 1), np.float32))}, "key 'observation' has shape [4, 1], expected [4]"),
    "Text": ({"fault": step(np.array(list("left")))}, "key 'observation' has dtype <U1, expected float32"),
    "Ragged": ({"fault": step([[0.0], [0.0, 0.0]])}, "key 'observation' cannot be an array: "),
    "Floats": (
        {"space": PIXELS, "fault": step(np.zeros(4))},
        "key 'observation' has dtype float64, expected uint8",
    ),
    "Beyond": (
        {"space": Discrete(3, start=2), "fault": step(5)},
        "key 'observation' is 5, expected an integer from 2 to 4",
    ),
    "NoMask": (
        {"space": MASKED, "fault": step({"observation": SOUND})},
        "the observation has no entry 'action_mask'; it has ['observation']",
    ),
    "NoDict": ({"space": MASKED, "fault": step(SOUND)}, "of type ndarray, expected a dict of ["),
    "LongMask": (
        {"space": MASKED, "fault": step({"observation": SOUND, "action_mask": np.ones(3, np.int8)})},
        "key 'action_mask' has shape [3], expected [2]",
    ),
    "TwoRewards": ({"fault": step(reward=np.zeros(2))}, "key 'reward' has shape [2], expected one number"),
    "RewardInList": ({"fault": step(reward=[1.0])}, "key 'reward' has shape [1], expected one number"),
    "NoReward": ({"fault": lambda: (SOUND, None, False, False, {})}, "key 'reward' is None, expected one number"),
    "RewardText": ({"fault": step(reward="one")}, "key 'reward' is 'one', of type str, expected one number"),
    "Ended": ({"fault": step(terminated=2)}, "key 'terminated' is 2, of type int, expected True or False"),
    "Cut": ({"fault": step(truncated=None)}, "key 'truncated' is None, expected True or False"),
    "Infos": ({"fault": step(info=[1])}, "step returned [1], of type list as info, expected 5 values: "),
    "Four": ({"fault": lambda: (SOUND, 1.0, False, {})}, "step returned 4 values, expected 5 values: observation, "),
    "Nothing": ({"fault": lambda: None}, "step returned None, expected 5 values: observation, reward, "),
}
IN_RESET = {
    "ResetRaises": ({"reset": lambda: fail(OSError("no track"))}, "OSError: no track"),
    "ResetShort": ({"reset": lambda: (SOUND[:3], {})}, "key 'observation' has shape [3], expected [4]"),
    "ResetAlone": (
        {"reset": lambda: SOUND},
        "of type ndarray, expected 2 values: observation, info, the last one a dict",
    ),
}
NOT_FINITE = {
    "Nan": ({"fault": step(spoiled(np.nan))}, "step 3: key 'observation' is nan at [2], expected finite numbers"),
    "Inf": ({"fault": step(spoiled(-np.inf))}, "step 3: key 'observation' is -inf at [2], expected finite numbers"),
    "WideInf": (
        {"space": WIDE, "fault": step(spoiled(np.inf, (2, 2), np.float64))},
        "step 3: key 'observation' is inf at [1, 0], expected finite numbers",
    ),
    "LastNan": (
        {"fault": step(spoiled(np.nan), terminated=True)},
        "step 3: key 'observation' is nan at [2], expected finite numbers",
    ),
    "ResetNan": (
        {"reset": lambda: (spoiled(np.nan), {})},
        "its reset after step 3: key 'observation' is nan at [2], expected finite numbers",
    ),
    "RewardNan": ({"fault": step(reward=np.nan)}, "step 3: key 'reward' is nan, expected a finite number"),
    "RewardInf": ({"fault": step(reward=-np.inf)}, "step 3: key 'reward' is -inf, expected a finite number"),
    "RewardHuge": (
        {"fault": step(reward=1e39)},
        "step 3: key 'reward' is 1e+39, expected a finite number in the range",
    ),
}

for name, (kwargs, _) in {**IN_STEP, **IN_RESET, **NOT_FINITE}.items():
    gym.register(f"tests/{name}-v0", Faulty, kwargs=kwargs)
# with a limit, a wrapper of Gymnasium's takes apart what a step returns
gym.register("tests/LimitedFour-v0", Faulty, max_episode_steps=9, kwargs=IN_STEP["Four"][0])
# large, and finite all the same
gym.register("tests/Large-v0", Faulty, kwargs={"fault": step(spoiled(np.finfo(np.float32).max), reward=3e38)})
