"""Environments that fail on command, in a file of their own because worker processes import it."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

GO_ON, RAISE, RAISE_LOCAL, RAISE_ODD, DIE, LEAVE, SLEEP = range(7)


class OddError(Exception):
    """Cannot be made again from its arguments, as many exceptions cannot."""

    def __init__(self, code, message):
        super().__init__(f"{message} ({code})")


class Fragile(gym.Env):
    """Does what the action says."""

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Discrete(7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        class LocalError(Exception):
            """Cannot be pickled."""

        if action == RAISE:
            raise RuntimeError("the pole broke\nin two")
        if action == RAISE_LOCAL:
            raise LocalError("only here")
        if action == RAISE_ODD:
            raise OddError(3, "the cart broke")
        if action == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == LEAVE:
            sys.exit(7)
        if action == SLEEP:
            Path(f"sleeping-{os.getpid()}").touch()
            time.sleep(60.0)
        return np.zeros(1, np.float32), 1.0, False, False, {}


class Broken(Fragile):
    """Raises whatever the action is, and leaves its process's number behind."""

    def step(self, action):
        Path(f"worker-{os.getpid()}").touch()
        return super().step(RAISE)


class Talkative(Fragile):
    """Fails when it is closed, with more words than a pipe holds."""

    def close(self):
        raise RuntimeError("x" * 300_000)


class Unmakeable(Fragile):
    """Can be made in the main process and in one worker, and in no other."""

    def __init__(self):
        if multiprocessing.parent_process() is None:
            return
        try:
            Path("made").touch(exist_ok=False)
        except FileExistsError:
            raise MemoryError("no room for a cart") from None


class Stillborn(Fragile):
    """Kills the second worker that makes it, or keeps it busy, as `STILLBORN` says."""

    def __init__(self):
        worker = multiprocessing.parent_process() is not None
        if worker and multiprocessing.current_process().name.endswith("-2"):
            if os.environ["STILLBORN"] == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            Path("sleeping").touch()
            time.sleep(60.0)


gym.register("tests/Stillborn-v0", Stillborn)
gym.register("tests/Fragile-v0", Fragile)
gym.register("tests/Talkative-v0", Talkative)
gym.register("tests/Broken-v0", Broken, max_episode_steps=100)
gym.register("tests/Unmakeable-v0", Unmakeable)
