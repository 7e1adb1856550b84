"""What environments may do with arrays, infos, flags and types: each is told apart from a plain one by nothing."""

import functools
import sys
import warnings

import gymnasium as gym
import numpy as np
import odd
import pytest
import torch
from gymnasium.vector import AutoresetMode
from walking import register, rollout, walk

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.modules import MLP, CategoricalActor, GaussianActor
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.scripts.main import run
from rlpipe.warn_once import each_once, notice_mujoco

BACKENDS = ["sync", "async"]
QUICK = ["--num-envs", "2", "--rollout-steps", "8", "--total-frames", "64", "--minibatch-size", "8", "--quiet"]
SHORT = [*QUICK, "--final-eval-episodes", "2"]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "plain"), [("Reuses", "Plain"), ("Shares", "Plain"), ("MaskedReuses", "Masked")])
def test_arrays_that_are_used_again_are_copied(name, plain, backend, num_envs, identical):
    seen, expected = (rollout(f"tests/{each}-v0", backend, num_envs) for each in (name, plain))
    identical(seen, expected)
    assert expected["observation"][0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert expected["next", "observation"][0, :, 0].tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


@pytest.mark.parametrize("wrap", [lambda envs: envs, gym.vector.VectorWrapper])
@pytest.mark.parametrize(("name", "plain"), [("Shares", "Plain"), ("MaskedReuses", "Masked")])
def test_so_they_are_in_gymnasiums_own_vector_environment(name, plain, wrap, identical):
    makers = [functools.partial(gym.make, f"tests/{name}-v0", disable_env_checker=True)] * 2
    envs = wrap(gym.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    seen = walk(VectorEnv(envs, seed=0), 12)
    identical(seen, rollout(f"tests/{plain}-v0", "sync", 2))


def test_a_partial_reset_leaves_the_rows_of_the_others():
    env = make_env(EnvConfig("tests/Shares-v0", 3), seed=0)
    td = env.reset()
    for _ in range(2):
        td = env.step_mdp(env.step(td.set("action", torch.zeros(3, dtype=torch.int64))))
    td["_reset"] = torch.tensor([[False], [True], [False]])
    assert env.reset(td)["observation"][:, 0].tolist() == [2, 0, 2]


class Kept(SameStepCartPole):
    """A vector environment of one piece that returns the same arrays each time."""

    def __init__(self):
        super().__init__(2, max_episode_steps=3)
        self.kept = None

    def reset(self, **options):
        return self.keep(super().reset(**options))

    def step(self, action):
        return self.keep(super().step(action))

    def keep(self, result):
        arrays, info = result[:-1], result[-1]
        if self.kept is None or len(self.kept) != len(arrays):
            self.kept = [np.empty_like(each) for each in arrays]
        for old, new in zip(self.kept, arrays, strict=True):
            old[...] = new
        return *self.kept, info


def test_a_vector_environment_that_uses_its_arrays_again_is_copied(identical):
    plain = SameStepCartPole(2, max_episode_steps=3)
    identical(*[walk(VectorEnv(envs, seed=0), 8) for envs in (Kept(), plain)])


class Tells(SameStepCartPole):
    """A vector environment of one piece that tells of successes in a way of its own."""

    def __init__(self, told):
        super().__init__(2, max_episode_steps=3)
        self.told = told

    def step(self, action):
        *arrays, info = super().step(action)
        return *arrays, {**info, "final_info": self.told}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"is_success": np.array([True, False])}, [(0, 1.0), (1, 0.0)]),
        ({"is_success": np.array([0.5, 1.0]), "_is_success": np.array([True, False])}, [(0, 0.5)]),
        ({"is_success": np.array([None, "yes"])}, []),
        (np.array([{"is_success": True}, None], dtype=object), [(0, 1.0)]),
    ],
)
def test_successes_of_a_vector_environment_of_one_piece(told, expected):
    env = VectorEnv(Tells(told), seed=0)
    env.infos.start()
    walk(env, 3)
    assert env.infos.take().successes == expected


@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_environment_that_changes_its_action_leaves_the_batch_what_was_drawn(num_envs):
    env = make_env(EnvConfig("tests/Moves-v0", num_envs), seed=0)
    actor = GaussianActor(MLP(2, 2, (8,)), env.action_spec, torch.Generator().manual_seed(0))
    for batch in SyncDataCollector(env, actor, frames_per_batch=8 * num_envs, total_frames=8 * num_envs):
        assert batch["action"].abs().max() <= 1
        earned = -10 * batch["action"].abs().sum(-1, keepdim=True)
        torch.testing.assert_close(batch["next", "reward"], earned)
        torch.testing.assert_close(actor.get_dist(batch).log_prob(batch["action"]), batch["action_log_prob"])


def shared(kind=odd.Plain, wrapper=lambda env: env):
    one = kind()
    return lambda **_: wrapper(one)


@pytest.mark.parametrize("wrapper", [lambda env: env, lambda env: gym.wrappers.TimeLimit(env, 3)])
def test_one_instance_in_several_places_is_refused(wrapper):
    env_id = register(shared(wrapper=wrapper))
    with pytest.raises(
        ConfigError, match=f"^env-id '{env_id}' gives the same object each time .* but 4 separate ones are needed"
    ):
        make_env(EnvConfig(env_id, 4))
    make_env(EnvConfig(env_id, 1), seed=0).rollout(3)


def test_an_evaluation_in_the_instance_that_is_trained_in_is_refused():
    config = EnvConfig(register(shared()), 1)
    env = make_env(config, seed=0)
    env.base_env.restart()
    env.base_env.advance(np.zeros(1, np.int64))
    policy = CategoricalActor(MLP(2, 2), env.action_spec, torch.Generator())
    assert evaluate(policy, config, episodes=1, seed=0).returns == (15.0,)
    with pytest.raises(TrainingError, match=r"in step 2: another user of the same environment, such as an evaluation"):
        env.base_env.advance(np.zeros(1, np.int64))
    # as it is after a checkpoint, which resets environments that cannot be captured
    env.base_env.restart()
    env.base_env.advance(np.zeros(1, np.int64))


def test_environments_that_were_made_are_closed_when_another_cannot_be(caplog):
    made = []

    def make(**_):
        if len(made) == 2:
            raise OSError("no port is left")
        made.append(odd.Unclosable())
        return made[-1]

    before = odd.Unclosable.closed
    with pytest.raises(ConfigError, match="cannot be made: OSError: no port is left"):
        make_env(EnvConfig(register(make), 3))
    assert odd.Unclosable.closed == before + 2
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_infos_are_no_reason_to_die(backend, identical):
    identical(rollout("tests/Told-v0", backend, 3), rollout("tests/Plain-v0", backend, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_success_is_what_is_kept_of_an_info(backend):
    envs = make_env(EnvConfig("tests/Told-v0", 6, backend), seed=0).base_env.envs
    envs.reset(seed=list(range(6)))
    for _ in range(odd.STEPS - 1):
        assert envs.step(np.zeros(6, np.int64))[-1] == {}
    final = envs.step(np.zeros(6, np.int64))[-1]["final_info"]
    envs.close()
    told = final["is_success"][final["_is_success"]]
    # in workers, each copy is the first one
    assert sorted(told) == ([0.25, 0.5, 1.0, 1.0, 1.0] if backend == "sync" else [1.0] * 6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_close_is_one_notice_and_the_run_is_finished(backend, tmp_path, capfd, caplog):
    folder = tmp_path / "run"
    options = ["--eval-every", "32", "--eval-episodes", "2", "--run-dir", str(folder)]
    assert run(["train", "ppo", "--env-id", "tests/Unclosable-v0", *SHORT, "--backend", backend, *options]) == 0
    assert caplog.messages == ["rlpipe: tests/Unclosable-v0 could not be closed: ConnectionError: no simulator"]
    assert "return 15.0" in capfd.readouterr().out
    assert list((folder / "checkpoints").iterdir())
    assert '"final": true' in (folder / "evaluations.jsonl").read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_in_close_hides_no_other(backend, tmp_path, capfd, caplog):
    folder = ["--run-dir", str(tmp_path / "run")]
    assert run(["train", "ppo", "--env-id", "tests/Fails-v0", *SHORT, "--backend", backend, *folder]) == 1
    assert caplog.messages == ["rlpipe: tests/Fails-v0 could not be closed: ConnectionError: no simulator"]
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("rlpipe: error: ")
    assert "RuntimeError: the wheel came off" in error


class Leaves(odd.Plain):
    """Ends the program in its third step, and when it is closed, as many a window does."""

    def step(self, action):
        return sys.exit(2) if self.count == 2 else super().step(action)

    def close(self):
        sys.exit(2)


def test_an_environment_that_ends_the_program(caplog):
    env_id = register(Leaves)
    with pytest.raises(TrainingError, match=r"^environment 0 of 2 .* failed in step 3: SystemExit: 2$"):
        rollout(env_id)
    assert caplog.messages == [f"rlpipe: {env_id} could not be closed: SystemExit: 2"]


def test_a_vector_environment_that_cannot_be_closed(caplog):
    class Stuck(SameStepCartPole):
        def close(self, **kwargs):
            raise ConnectionError("no simulator")

    env = VectorEnv(Stuck(2, max_episode_steps=3), seed=0)
    env.restart()
    env.close()
    assert caplog.messages == ["rlpipe: the 2 environments failed in close: ConnectionError: no simulator"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_warnings_are_shown_once(backend, tmp_path, capfd):
    options = ["--env-id", "tests/Warns-v0", "--eval-every", "32", "--eval-episodes", "3", "--backend", backend]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run(["train", "ppo", *options, *SHORT, "--run-dir", str(tmp_path / "run")]) == 0
    # those of workers are printed by the first one
    shown, from_worker = (
        [str(each.message) for each in caught] + capfd.readouterr().err.splitlines(),
        backend == "async",
    )
    assert sum("made, of" in line for line in shown) == 1
    assert sum("UserWarning: reset" in line for line in shown) == from_worker
    assert sum("step 1" in line for line in shown) == 1 + from_worker


def test_warnings_are_shown_as_before_afterwards():
    before = warnings.showwarning
    with each_once(), each_once():
        assert warnings.showwarning is not before
    assert warnings.showwarning is before


def test_what_mujoco_warns_of_is_shown_once(caplog):
    mujoco = pytest.importorskip("mujoco")
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(None)
    try:
        env = make_env(EnvConfig("Hopper-v5", 2), seed=0).base_env
        env.restart()
        for each in env.envs.envs:
            each.unwrapped.data.qvel[:] = 1e12
        env.advance(np.zeros((2, 3), np.float32))
        notice_mujoco()
        assert len(caplog.messages) == 1
        assert "MuJoCo warns, and will not again: Nan, Inf or huge value in Q" in caplog.text
    finally:
        mujoco.set_mju_user_warning(before)
