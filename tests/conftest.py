"""What all tests share: one thread, quiet logs, tiny environments, and the device that they run on."""

from __future__ import annotations

import importlib
import logging
import os

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
logging.getLogger("torchrl").setLevel(logging.WARNING)
# no test cuts the power, and a disk takes longer to flush than a small run to learn
os.fsync = os.fstat

# tests/fuzz has twelve tests of so many cases each; the same cases in every run, but for `make soak`
_FUZZ = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("rlpipe", derandomize=True, max_examples=50, **_FUZZ)
settings.register_profile("soak", max_examples=1_000, **_FUZZ)
settings.load_profile("soak" if os.environ.get("RLPIPE_SOAK") else "rlpipe")


class Identity(gym.Env):
    """Do what you see: the reward is 1 for the action equal to the observation. Episodes are truncated, never ended."""

    def __init__(self, actions: int = 3, start: int = 0) -> None:
        self.observation_space = self.action_space = Discrete(actions, start=start)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._draw()
        return self._state, {}

    def step(self, action):
        assert action in self.action_space
        reward = float(action == self._state)
        self._draw()
        return self._state, reward, False, False, {}

    def _draw(self):
        self._state = int(self.np_random.integers(self.action_space.n) + self.action_space.start)


class IdentityBox(gym.Env):
    """The same with numbers: the reward falls with the distance of the action from the observation."""

    observation_space = Box(-2.0, 2.0, (1,), np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.5, 1.5, 1)
        return self._state, {}

    def step(self, action):
        reward = -float(np.abs(action - self._state).sum())
        self._state = self.np_random.uniform(-1.5, 1.5, 1)
        return self._state, reward, False, False, {}


class Shaped(IdentityBox):
    """Box actions of a shape of their own, which are checked."""

    def __init__(self, shape) -> None:
        self.action_space = Box(-1.0, np.float32(0.3), shape, np.float32)

    def step(self, action):
        assert action in self.action_space
        return super().step(action)


class Still(IdentityBox):
    """The same, with a second feature that never moves."""

    observation_space = Box(-2.0, 2.0, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return np.append(observation, 1.0), info

    def step(self, action):
        observation, *rest = super().step(action)
        return np.append(observation, 1.0), *rest


class Counter(gym.Env):
    """Counts its steps in the observation, from 10; after `length` steps it is terminated, or else truncated."""

    observation_space = Box(0.0, 1000.0, (1,), np.float32)
    action_space = Discrete(2, start=1)

    def __init__(self, length: int = 3, terminates: bool = True) -> None:
        self._length, self._terminates = length, terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.array([10.0], np.float32), {}

    def step(self, action):
        assert action in self.action_space
        self._steps += 1
        ended = self._steps >= self._length
        observation = np.array([10.0 + self._steps], np.float32)
        return observation, float(self._steps), ended and self._terminates, ended and not self._terminates, {}


gym.register("tests/Identity-v0", Identity, max_episode_steps=10)
gym.register("tests/IdentityFrom7-v0", Identity, max_episode_steps=10, kwargs={"start": 7})
gym.register("tests/IdentityBox-v0", IdentityBox, max_episode_steps=10)
gym.register("tests/Still-v0", Still, max_episode_steps=10)
gym.register("tests/Matrix-v0", Shaped, max_episode_steps=10, kwargs={"shape": (2, 2)})
gym.register("tests/Scalar-v0", Shaped, max_episode_steps=10, kwargs={"shape": ()})
gym.register("tests/Counter-v0", Counter)
gym.register("tests/CutCounter-v0", Counter, kwargs={"terminates": False})
gym.register("tests/Endless-v0", Identity)


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda runs the tests that are marked cuda, on the GPU, and no others",
    )


def no_gpu():
    """Why there is no GPU to run on, in a line; nothing if there is one."""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA; install one that was built with it"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no CUDA device; see nvidia-smi for what the driver finds"
    return ""


def pytest_collection_modifyitems(config, items):
    """Leave the GPU's tests to `--device cuda`, and that to them."""
    theirs = [item for item in items if item.get_closest_marker("cuda")]
    if config.getoption("--device") == "cuda":
        config.hook.pytest_deselected(items=[item for item in items if item not in theirs])
        items[:] = theirs
        reason = no_gpu()
    else:
        reason = "runs on a GPU: python -m pytest --device cuda"
    for item in theirs if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter, config):
    """Say which GPU it was, or why there was none."""
    if config.getoption("--device") == "cuda":
        reason = no_gpu()
        terminalreporter.write_line(
            f"no test ran on a GPU: {reason}" if reason else f"ran on {torch.cuda.get_device_name()}"
        )


@pytest.fixture
def own_ids():
    """Forget the environments that a test registers, such as those of a page, which other tests run too."""
    # rlpipe's own are registered by the first import
    importlib.import_module("rlpipe.pipelines.envs")
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Each device in turn: a test that takes it runs on the CPU, and with `--device cuda` on the GPU."""
    return request.param


@pytest.fixture
def identical():
    """A function that asserts that two TensorDicts are the same, to the bit."""

    def check(actual, expected):
        assert set(actual.keys(True, True)) == set(expected.keys(True, True))
        assert actual.batch_size == expected.batch_size
        for key in expected.keys(True, True):
            ours, theirs = actual.get(key), expected.get(key)
            assert ours.dtype == theirs.dtype, key
            assert torch.equal(ours, theirs), key

    return check
