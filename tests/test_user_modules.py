"""Modules that environments come from: a fault of theirs is told as theirs, and `--trust-module` imports them."""

import contextlib
import importlib
import sys

import gymnasium as gym
import pytest

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.runs.read import read_run
from rlpipe.scripts.main import run

MODULES = {
    "not_python": "def (",
    "wants_more": "import a_package_of_nobody",
    "ends_all": "raise SystemExit('no licence')",
    "lacks_library": "raise ImportError('libGL.so.1: cannot open\\nsee the manual')",
    "divides": "1 / 0",
    "empty_one": "",
    "wants_itself": "import wants_itself.part",
    "registers": """
import gymnasium as gym

class Lazy(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def __init__(self):
        import a_package_of_nobody

class Ends(Lazy):
    def __init__(self):
        raise SystemExit(3)

gym.register("Lazy-v0", Lazy)
gym.register("Ends-v0", Ends)
gym.register("Elsewhere-v0", "wants_more:Nothing")
gym.register("Nowhere-v0", "a_module_of_nobody:Nothing")
gym.register("Lost-v0", "ends_all:Nothing")
""",
    "late": "import gymnasium as gym\nfrom tests_late import Env\ngym.register('Late-v0', Env, max_episode_steps=5)",
    "tests_late": """
import gymnasium as gym
import numpy as np

class Env(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}
""",
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modules").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "modules" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    # imported for the first time within a test, its games would leave the registry with what the test registers
    with contextlib.suppress(ImportError):
        importlib.import_module("ale_py")
    registry = dict(gym.registry)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
    gym.registry.clear()
    gym.registry.update(registry)


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("not_python:E-v0", "cannot be imported: SyntaxError: invalid syntax (not_python.py, line 1)"),
        ("wants_more:E-v0", "cannot be imported: ModuleNotFoundError: No module named 'a_package_of_nobody'"),
        ("wants_itself:E-v0", "cannot be imported: ModuleNotFoundError: No module named 'wants_itself.part'"),
        ("ends_all:E-v0", "cannot be imported: it ended the program, SystemExit: no licence"),
        ("lacks_library:E-v0", "cannot be imported: ImportError: libGL.so.1: cannot open"),
        ("divides:E-v0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("a_module_of_nobody:E-v0", "there is no module 'a_module_of_nobody'"),
        ("empty_one.py:E-v0", "name a module without its folder and '.py', such as 'empty_one'"),
        ("empty_one:E-v0", "the module 'empty_one' registers no 'E-v0'"),
        ("registers:E-v0", "the module 'registers' registers no 'E-v0'; it registers Lazy-v0, Ends-v0"),
        ("registers:Lazy-v0", "needs a package that is missing: No module named 'a_package_of_nobody'"),
        ("registers:Ends-v0", "cannot be made: it ended the program, SystemExit: 3"),
        ("registers:Elsewhere-v0", "needs a package that is missing: No module named 'a_package_of_nobody'"),
        ("registers:Nowhere-v0", "needs a package that is missing: No module named 'a_module_of_nobody'"),
        ("registers:Lost-v0", "cannot be made: it ended the program, SystemExit: no licence"),
    ],
)
def test_a_fault_of_a_module_is_named(env_id, reason):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(env_id))
    assert env_id in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_a_module_of_this_folder_that_python_does_not_see(tmp_path):
    (tmp_path / "unseen.py").touch()
    with pytest.raises(ConfigError, match="it is in this folder, which Python does not search: put PYTHONPATH=."):
        make_env(EnvConfig("unseen:E-v0"))


def forget(*names):
    for name in names:
        sys.modules.pop(name, None)
    gym.registry.pop("Late-v0", None)


@pytest.mark.parametrize("env_id", ["Late-v0", "late:Late-v0"])
def test_trusted_modules_are_imported(tmp_path, capsys, env_id):
    __import__("late")
    short = {"total_frames": 32, "rollout_steps": 16, "minibatch_size": 32, "num_envs": 2, "final_eval_episodes": 1}
    run_recipe("ppo", env_id=env_id, folder="run", loggers=None, **short)
    forget("late")
    assert run(["evaluate", "run", "--episodes", "1"]) == 2
    assert "add --trust-module" in capsys.readouterr().err
    for command in (
        ["evaluate", "run", "--episodes", "1"],
        ["export", "run", "--out", "policy.safetensors"],
        ["resume", "run", "--total-frames", "64", "--quiet"],
    ):
        assert run([*command, "--trust-module", "late"]) == 0, capsys.readouterr().err
        forget("late")
    with trained("run", ["late"]) as agent:
        assert agent.config.env_id == env_id
    forget("late")
    if ":" not in env_id:
        with pytest.raises(CheckpointError, match="'Late-v0', which is not registered with Gymnasium; add --"):
            trained("run").__enter__()


def test_a_trusted_module_that_fails_is_named(tmp_path):
    run_recipe("q-learning/maze", folder="run", loggers=None, total_frames=16, final_eval_episodes=1)
    for name, reason in (("nobodys", "trust-module: there is no module 'nobodys'"), ("divides", "ZeroDivisionError")):
        with pytest.raises(ConfigError, match=reason):
            read_run(tmp_path / "run", [name])
