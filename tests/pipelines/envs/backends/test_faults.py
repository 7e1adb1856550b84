"""Environments that go wrong: one message that says which, when, what and what was expected, and nothing is left."""

import itertools
import multiprocessing
import os
import subprocess
from pathlib import Path

import faulty
import gymnasium as gym
import numpy as np
import pytest
from faulty import IN_RESET, IN_STEP, NOT_FINITE
from forked import Python, session_of
from tensordict.nn import TensorDictModule

from rlpipe.errors import TrainingError
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.scripts.main import run

BACKENDS = ["sync", "async"]
QUICK = ["--num-envs", "2", "--rollout-steps", "8", "--total-frames", "64", "--minibatch-size", "8", "--quiet"]


@pytest.fixture(autouse=True)
def _count_anew(monkeypatch):
    monkeypatch.setattr(faulty, "made", itertools.count())


def play(env, steps):
    """Reset and step; what the last step returned."""
    env.restart()
    return [env.advance(np.zeros(env.batch_size, np.int64)) for _ in range(steps)][-1]


def fault_of(env_id, backend):
    """The message with which stepping an environment ends."""
    before = set(multiprocessing.active_children())
    env = make_env(EnvConfig(env_id, 2, backend), seed=0)
    try:
        with pytest.raises(TrainingError) as kept:
            play(env.base_env, 5)
    finally:
        env.close()
    assert set(multiprocessing.active_children()) == before
    return str(kept.value)


def opening(env_id, backend, when):
    if backend == "sync":
        return f"environment 1 of 2 ({env_id}) failed in {when}: "
    return f"worker 1 of 2 failed in step 3 of its environment {env_id}; its last message: "


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", IN_STEP)
def test_what_does_not_fit_is_refused_in_its_step(name, backend):
    message = fault_of(f"tests/{name}-v0", backend)
    assert message.startswith(opening(f"tests/{name}-v0", backend, "step 3"))
    assert IN_STEP[name][1] in message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", IN_RESET)
def test_what_does_not_fit_is_refused_in_its_reset(name, backend):
    message = fault_of(f"tests/{name}-v0", backend)
    assert message.startswith(opening(f"tests/{name}-v0", backend, "its reset after step 3"))
    assert IN_RESET[name][1] in message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_is_refused_in_its_step(name, backend):
    message = fault_of(f"tests/{name}-v0", backend)
    assert message.startswith(f"environment 1 of 2 (tests/{name}-v0) failed in {NOT_FINITE[name][1]}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_old_step_that_a_wrapper_of_gymnasiums_takes_apart(backend):
    message = fault_of("tests/LimitedFour-v0", backend)
    assert message.startswith(opening("tests/LimitedFour-v0", backend, "step 3") + "ValueError: not enough values")
    assert message.endswith("; step is expected to return 5 values: observation, reward, terminated, truncated, info")


def test_large_numbers_are_no_fault():
    after = play(make_env(EnvConfig("tests/Large-v0", 2), seed=0).base_env, 3)
    assert after["observation"][1, 2] == np.finfo(np.float32).max
    assert after["reward"].tolist() == [1.0, np.float32(3e38)]


def test_the_cause_is_kept():
    with pytest.raises(TrainingError) as kept:
        play(make_env(EnvConfig("tests/Raises-v0", 2), seed=0).base_env, 3)
    assert str(kept.value.__cause__) == "the pole broke"


class Whole(SameStepCartPole):
    """A vector environment of one piece, whose third step is what `spoil` makes of it."""

    def __init__(self, spoil):
        super().__init__(3, max_episode_steps=2)
        self.spec, self._spoil, self._count = gym.spec("CartPole-v1"), spoil, 0

    def step(self, action):
        self._count += 1
        result = super().step(action)
        return self._spoil(*result) if self._count == 3 else result


def nan_reward(observation, reward, *rest):
    reward[2] = np.nan
    return observation, reward, *rest


def fail(*_, **options):
    raise FloatingPointError("the pole broke")


def last_is_nan(observation, reward, terminated, truncated, info):
    truncated[1:] = True
    final = observation.copy()
    final[2, 3] = np.nan
    return observation, reward, terminated, truncated, {"final_obs": final}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_reward, "environment 2 of 3 (CartPole-v1) failed in step 3: key 'reward' is nan, expected a finite"),
        (last_is_nan, "environment 2 of 3 (CartPole-v1) failed in step 3: key 'observation' is nan at [3], expected"),
        (fail, "the 3 environments (CartPole-v1) failed in step 3: FloatingPointError: the pole broke"),
        (lambda o, *rest: (o[:, :1], *rest), "key 'observation' has shape [3, 1], expected [3, 4]"),
        (lambda o, *rest: (o.astype(complex), *rest), "key 'observation' has dtype complex128, expected float32"),
        (lambda o, r, *rest: (o, r[:, None], *rest), "key 'reward' has shape [3, 1], expected [3]"),
        (lambda o, r, *rest: (o, r.astype(str), *rest), "key 'reward' has dtype <U32, expected float64"),
        (lambda o, r, e, *rest: (o, r, e.astype(int), *rest), "key 'terminated' has dtype int64, expected bool"),
        (lambda o, r, e, c, i: (o, r, e, c[:2], i), "key 'truncated' has shape [2], expected [3]"),
        (
            lambda o, r, e, c, i: (o, r, e, ~c, {"final_obs": o[:, :1]}),
            "key 'observation' has shape [3, 1], expected [3, 4]",
        ),
    ],
)
def test_a_vector_environment_of_one_piece_is_checked_as_a_whole(spoil, message):
    env = VectorEnv(Whole(spoil), seed=0)
    play(env, 2)
    with pytest.raises(TrainingError) as kept:
        env.advance(np.zeros(3, np.int64))
    assert message in str(kept.value)


def others_have_no_last(observation, reward, terminated, truncated, info):
    truncated[1] = True
    final = np.full_like(observation, np.nan)
    final[1] = 7.0
    return observation, reward, terminated, truncated, {"final_obs": final}


def test_of_last_observations_only_those_of_ended_episodes_are_read():
    env = VectorEnv(Whole(others_have_no_last), seed=0)
    play(env, 2)
    after = env.advance(np.zeros(3, np.int64))
    assert after["done"].tolist() == [False, True, False]
    assert (after["observation"][1] == 7.0).all()
    assert np.array_equal(after["observation"][[0, 2]], env.root["observation"][[0, 2]])
    assert env.root["step_count"].tolist() == [1, 0, 1]


def test_what_a_reset_of_one_piece_returns_is_checked(monkeypatch):
    monkeypatch.setattr(SameStepCartPole, "reset", lambda self, **_: (np.full((3, 4), np.inf, np.float32), {}))
    with pytest.raises(TrainingError, match=r"^environment 0 of 3 .* its reset after step 0: .* is inf at \[0\]"):
        VectorEnv(Whole(None), seed=0).restart()
    monkeypatch.setattr(SameStepCartPole, "reset", fail)
    with pytest.raises(TrainingError, match=r"^the 3 environments .* failed in a reset: FloatingPointError: the pole"):
        VectorEnv(Whole(None), seed=0).restart()


def test_an_evaluation_tells_of_faults_as_training_does():
    policy = TensorDictModule(lambda observation: observation[..., 0].long() * 0, ["observation"], ["action"])
    with pytest.raises(
        TrainingError, match=r"^environment 1 of 2 \(tests/Nan-v0\) failed in step 3: key 'observation'"
    ):
        evaluate(policy, EnvConfig("tests/Nan-v0", 2), episodes=2, seed=0, num_envs=2)


def train(env_id, backend):
    return ["train", "ppo", *QUICK, "--env-id", env_id, "--backend", backend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["Raises", "Four", "Short", "Floats", "NoReward", "Nan", "RewardInf"])
def test_training_ends_with_one_line_and_exit_code_1(name, backend, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = set(multiprocessing.active_children())
    assert run(train(f"tests/{name}-v0", backend)) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("rlpipe: error: ")
    assert f"tests/{name}-v0" in err
    assert err.count("\n") == 1
    assert set(multiprocessing.active_children()) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(("name", "backend"), [("Raises", "async"), ("Nan", "sync"), ("Nan", "async")])
def test_the_command_leaves_no_process_behind(name, backend, tmp_path):
    code = "import faulty, sys; from rlpipe.scripts.main import run; sys.exit(run(sys.argv[1:]))"
    paths = os.pathsep.join([str(Path(__file__).parents[3] / "helpers"), os.environ.get("PYTHONPATH", "")])
    process = Python(
        *["-c", code, *train(f"tests/{name}-v0", backend)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        session=True,
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("rlpipe: error: ")
    assert f"tests/{name}-v0" in err
    assert "Traceback" not in err
    assert not session_of(process.pid)
