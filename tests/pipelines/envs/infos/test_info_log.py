"""What infos report: successes and numbers, of any backend and in any form; nothing in an info stops a run."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from goals import Mapping, Walk
from gymnasium.vector import AutoresetMode
from walking import walk

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.pipelines.envs.infos.log import InfoReport, MissingKeys, joined

KEYS = ("steps", "steps:last", "reward.forward")
METRICS = ("info/steps", "info/steps_last", "info/reward.forward")
BACKENDS = ["sync", "async"]


def reported(env, steps=30):
    """What infos report of these steps, and the steps themselves."""
    env.infos.start()
    return env.infos.take() if not steps else (walk(env, steps), env.infos.take())


def made(env_id, backend="sync", num_envs=2, keys=KEYS):
    return make_env(EnvConfig(env_id, num_envs, backend, log_info=keys), seed=0).base_env


@pytest.mark.parametrize(("backend", "num_envs"), [("sync", 1), ("sync", 3), ("async", 2)])
def test_means_over_steps_and_over_ends(backend, num_envs):
    env = made("tests/Runner-v0", backend, num_envs)
    batch, found = reported(env)
    env.close()
    seen, done = (batch["next", key].squeeze(-1) for key in ("observation", "done"))
    assert done.sum() > 5
    assert found.sums["info/steps"] == (seen.sum(), seen.numel())
    assert found.sums["info/steps_last"] == (seen[done].sum(), done.sum())
    assert found.sums["info/reward.forward"] == (2 * seen.sum(), seen.numel())
    assert [success for *_, success in found.successes] == [float(n % 2 == 0) for n in seen.T[done.T].tolist()]
    assert found.names == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_infos_are_left_alone_unless_they_are_logged(backend):
    envs = made("tests/Runner-v0", backend, keys=()).envs
    envs.reset(seed=[1, 2])
    info = envs.step(np.zeros(2, np.int64))[-1]
    envs.close()
    assert info == {}


def test_nothing_is_kept_before_it_is_asked_for():
    env = made("tests/Runner-v0")
    walk(env, 10)
    assert env.infos.take() == InfoReport([], dict.fromkeys(METRICS, (0.0, 0)), [])


def test_logging_changes_no_step(identical):
    identical(walk(made("tests/Runner-v0"), 20), walk(made("tests/Runner-v0", keys=()), 20))


@pytest.mark.parametrize(("backend", "num_envs"), [("sync", 1), ("sync", 3), ("async", 2)])
def test_no_info_stops_a_run(backend, num_envs):
    env = made("tests/Hostile-v0", backend, num_envs)
    batch, found = reported(env, 40)
    env.close()
    assert batch["next", "done"].sum() == 20 * num_envs
    # each is told twice, by a step that ends an episode and by the one before; an array of one number is a number
    assert found.sums["info/steps"] == (np.inf, 6 * num_envs)
    assert found.sums["info/steps_last"][1] == 2 * num_envs
    assert found.sums["info/reward.forward"] == (0.0, 0)
    assert [success for *_, success in found.successes] == [1.0] * 2 * num_envs


class Tells(SameStepCartPole):
    """A vector environment of one piece, with an info of any form at each step."""

    def __init__(self, told, last=None):
        super().__init__(2, max_episode_steps=3)
        self.told, self.last = told, last

    def step(self, action):
        *arrays, info = super().step(action)
        final = {} if self.last is None or not info else {"final_info": self.last}
        return *arrays, {**info, **self.told, **final} if isinstance(self.told, dict) else self.told


@pytest.mark.parametrize(
    ("told", "last", "steps", "ends"),
    [
        # after two steps, both end in the third
        ({"x": np.array([1.0, 3.0])}, None, (12.0, 6), (4.0, 2)),
        ({"x": [1, None]}, None, (3.0, 3), (1.0, 1)),
        ({"x": np.array([1.0, 3.0]), "_x": np.array([False, True])}, None, (9.0, 3), (3.0, 1)),
        ({"x": np.array([1.0, 3.0])}, {"x": np.array([7, 9])}, (24.0, 6), (16.0, 2)),
        ({"x": torch.ones(2)}, {}, (4.0, 4), (0.0, 0)),
        ({"x": torch.ones(2)}, np.array([{"x": 5}, None], object), (9.0, 5), (5.0, 1)),
        ({"x": 2}, [{"x": 5}, {"x": None}], (13.0, 5), (5.0, 1)),
        ({"x": np.zeros((2, 3))}, "text", (0.0, 0), (0.0, 0)),
        ({"x": np.array([np.inf, 1.0])}, Mapping(), (2.0, 2), (0.0, 0)),
    ],
)
def test_vector_environments_of_one_piece(told, last, steps, ends):
    env = VectorEnv(Tells(told, last), seed=0, log_info=("x", "x:last"))
    _, found = reported(env, 3)
    assert found.sums == {"info/x": steps, "info/x_last": ends}


@pytest.mark.parametrize("info", [None, [], {"final_info": {}}])
def test_an_info_without_the_last_observations_is_named(info):
    class Silent(Tells):
        def step(self, action):
            return *super().step(action)[:-1], info

    with pytest.raises(TrainingError, match=r"the 2 environments failed in step 3: an episode ended, and info has no"):
        walk(VectorEnv(Silent({}), seed=0), 3)


@pytest.mark.parametrize("kind", [gym.vector.SyncVectorEnv, gym.vector.AsyncVectorEnv])
def test_gymnasiums_own_vector_environments(kind):
    envs = kind([Walk] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env = VectorEnv(envs, seed=0, log_info=("steps:last",))
    batch, found = reported(env, 20)
    env.close()
    done, lengths = (batch["next", key] for key in ("done", "step_count"))
    assert found.sums == {"info/steps_last": (lengths[done].sum() + done.sum(), done.sum())}
    assert len(found.successes) == done.sum() > 10


def test_envpool_says_that_it_passes_none_on():
    with pytest.raises(
        ConfigError, match="^log_info is x, and backend 'envpool' passes no infos on; 'sync' and 'async' do$"
    ):
        EnvConfig("CartPole-v1", backend="envpool", log_info=("x",))


@pytest.mark.parametrize("given", ["x", ["x"], ("x", 3), None])
def test_keys_are_a_tuple_of_texts(given):
    with pytest.raises(ConfigError, match="^log_info is .*; expected a tuple of keys, such as"):
        EnvConfig("CartPole-v1", log_info=given)


def test_reports_of_several_collectors_are_one():
    first = InfoReport([(1, 0, 1.0)], {"info/a": (2.0, 3)}, ["x"])
    second = InfoReport([(0, 2, 0.0)], {"info/a": (0.5, 1), "info/b": (0.0, 0)}, ["x", "y"])
    expected = InfoReport([*first.successes, *second.successes], {"info/a": (2.5, 4), "info/b": (0.0, 0)}, ["x", "y"])
    assert joined([first, second]) == expected


def test_a_key_that_no_info_has_is_one_notice(caplog):
    missing, names = MissingKeys(), ["speed", "lap"]
    missing.note(InfoReport([], {"info/a": (0.0, 0), "info/b": (0.0, 0), "info/c": (1.0, 1)}, []), [])
    missing.note(InfoReport([], {"info/a": (3.0, 1), "info/b": (0.0, 0), "info/c": (0.0, 0)}, names), [])
    assert caplog.messages == []
    for _ in range(2):
        missing.note(InfoReport([], {"info/a": (0.0, 0), "info/b": (0.0, 0), "info/c": (0.0, 0)}, names), [1.0])
    words = "rlpipe: log_info: no info has had a number for info/b so far; an info has the numbers speed, lap"
    assert caplog.messages == [words]


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_of_numbers_help_where_a_key_is_missing(backend):
    env = made("tests/Runner-v0", backend, keys=("speed",))
    _, found = reported(env, 10)
    env.close()
    assert found.names == ["is_success", "steps"]
    _, found = reported(VectorEnv(Tells({"x": np.ones(2), "y": "word"}), seed=0, log_info=("speed",)), 3)
    assert found.names == ["x"]
