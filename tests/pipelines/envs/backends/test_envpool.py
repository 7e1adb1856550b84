"""The EnvPool backend against Gymnasium's own environments, step by step from the same states."""

import json
import math
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, CategoricalActor, GaussianActor
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.backends.envpool import EQUAL_TO_GYMNASIUM, EnvPoolVectorEnv
from rlpipe.scripts.main import run

pytestmark = pytest.mark.filterwarnings("ignore:.*out of date.*")
CONTACTS = ("Ant", "Humanoid", "HumanoidStandup")
BOX2D = sorted(each for each in EQUAL_TO_GYMNASIUM if each.startswith(("Lunar", "Bipedal")))
DRAWN = ["FrozenLake-v1", "FrozenLake8x8-v1"]
STEPPED = sorted(EQUAL_TO_GYMNASIUM - {*BOX2D, *DRAWN})


@pytest.fixture(scope="module", autouse=True)
def envpool():
    """EnvPool, or no tests."""
    return pytest.importorskip("envpool", reason='needs EnvPool: pip install "rlpipe[envpool]"')


def make(env_id, num_envs=3, limit=None):
    package = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "Box2D"}
    for part, name in package.items():
        if str(gym.spec(env_id).entry_point).startswith(part):
            pytest.importorskip(name, reason=f"needs {name}")
    return EnvPoolVectorEnv(gym.spec(env_id), num_envs, limit)


def put(single, o):
    """Put a Gymnasium environment into the state of an observation of it."""
    env, name = single.unwrapped, single.spec.name
    if name == "Acrobot":
        env.state = np.array([math.atan2(o[1], o[0]), math.atan2(o[3], o[2]), o[4], o[5]])
    elif name == "CliffWalking":
        env.s = int(o)
    elif not hasattr(env, "model"):
        env.state = np.array(o, dtype=np.float64)
    else:
        place, speed, nq, nv = env.data.qpos.copy(), env.data.qvel.copy(), env.model.nq, env.model.nv
        if name == "InvertedDoublePendulum":
            place, speed = np.array([o[0], math.atan2(o[1], o[3]), math.atan2(o[2], o[4])]), o[5:8]
        elif name == "Reacher":
            place[:2], place[2:], speed[:2], speed[2:] = np.arctan2(o[2:4], o[:2]), o[4:6], o[6:8], 0.0
        elif name == "Pusher":
            place[:7], speed[:7] = o[:7], o[7:14]
            # the joints of the object are in another order than the axes in which it is seen
            offset = o[17:19] - [0.45, -0.05]
            place[-4:], speed[-4:] = [offset[1], offset[0], 0.0, 0.0], 0.0
        else:
            hidden = nq - (len(o) - nv if len(o) < nq + nv else nq - 2 if name in CONTACTS else nq)
            place[hidden:], speed = o[: nq - hidden], o[nq - hidden : nq - hidden + nv]
        env.set_state(place, speed)


def draw(space, generator, num_envs):
    if hasattr(space, "n"):
        return generator.integers(space.n, size=num_envs)
    return generator.uniform(space.low, space.high, (num_envs, *space.shape)).astype(space.dtype)


def act(env, observation, generator, t):
    """Random actions; where those never end an episode, ones that do."""
    name = env.spec.name
    if name == "MountainCar":
        return np.where(observation[:, 1] >= 0, 2, 0)
    if name == "MountainCarContinuous":
        return np.sign(observation[:, 1:] + 1e-9)
    if name == "Acrobot":
        return np.where(observation[:, 4] >= 0, 2, 0)
    if name == "CliffWalking" and t < 26:
        return np.full(env.num_envs, 0 if t % 13 == 0 else 2 if t % 13 == 12 else 1)
    return draw(env.single_action_space, generator, env.num_envs)


@pytest.mark.parametrize("env_id", STEPPED)
def test_equals_gymnasium_from_the_same_state(env_id):
    # where bodies hit each other, versions of MuJoCo grow apart: with the same one, all agree to 1e-10
    touching = env_id.startswith(CONTACTS)
    steps, rtol, atol = (3, 2e-2, 1e-2) if touching else (250, 1e-4, 1e-4)
    if env_id.startswith("HalfCheetah"):
        steps = 45
    limit = 40 if env_id.startswith(("CartPole", "Hopper", "HalfCheetah")) else None
    env = make(env_id, 3, limit)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation.flags.c_contiguous
    singles = [gym.make(env_id, **({} if limit is None else {"max_episode_steps": limit})) for _ in range(3)]
    for single, row in zip(singles, observation, strict=True):
        single.reset(seed=0)
        put(single, row)
    generator, ended = np.random.default_rng(0), []
    for t in range(steps):
        action = act(env, observation, generator, t)
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert (observation.dtype, reward.dtype) == (env.single_observation_space.dtype, np.float64)
        for index, single in enumerate(singles):
            theirs, their_reward, *flags, _ = single.step(action[index])
            done = terminated[index] | truncated[index]
            ours = info["final_obs"][index] if done else observation[index]
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
            assert reward[index] == pytest.approx(their_reward, rel=1e-3, abs=1e-4)
            assert flags == [terminated[index], truncated[index]]
            if done:
                ended.append(flags)
                single.reset()
                put(single, observation[index])
    if not touching and (single.spec.max_episode_steps or steps) <= steps:
        assert ended


class Pushed:
    """A generator whose first draws of a first push are given."""

    def __init__(self, push):
        self._generator, self._push = np.random.default_rng(0), list(push)

    def __getattr__(self, name):
        return getattr(self._generator, name)

    def uniform(self, low=0.0, high=1.0, size=None):
        if high in (1000.0, 5.0) and low == -high and self._push:
            return self._push.pop(0)
        return self._generator.uniform(low, high, size)


def start(env_id, push):
    single = gym.make(env_id)
    single.unwrapped._np_random = Pushed(push)
    return single, single.reset()[0]


@pytest.mark.parametrize("env_id", BOX2D)
def test_box2d_equals_gymnasium_from_the_same_push(env_id):
    lunar = env_id.startswith("Lunar")
    # of the moon's surface and the way ahead, which are drawn too, nothing is seen or felt in these steps
    moved, steps, seen, unit = ([2, 3], 45, 8, 100.0) if lunar else ([2], 4, 14, 0.5)
    env = make(env_id, 2)
    observation, _ = env.reset(seed=1)
    assert observation in env.observation_space
    singles = []
    for row in observation:
        push = np.zeros(len(moved))
        for _ in range(4):
            at = start(env_id, push)[1][moved].astype(float)
            shifts = [start(env_id, push + shift)[1][moved] - at for shift in np.eye(len(moved)) * unit]
            jacobian = np.stack(shifts, axis=1) / unit
            push = push + np.linalg.solve(jacobian, row[moved] - at)
        single, theirs = start(env_id, push)
        np.testing.assert_allclose(row[:seen], theirs[:seen], rtol=0, atol=1e-5)
        singles.append(single)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        # engines fire with noise, so none do
        action = np.zeros((2, *env.single_action_space.shape), env.single_action_space.dtype)
        if not lunar:
            action = draw(env.single_action_space, generator, 2)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not (terminated | truncated).any()
        for index, single in enumerate(singles):
            theirs, their_reward, *flags, _ = single.step(action[index])
            np.testing.assert_allclose(observation[index][:seen], theirs[:seen], rtol=0, atol=1e-3)
            assert reward[index] == pytest.approx(their_reward, abs=1e-3)
            assert flags == [False, False]


def returns(env, episodes, generator):
    """Return, length and whether it terminated, of each environment's first episodes under random actions."""
    env.reset(seed=3)
    totals, lengths, kept = np.zeros(env.num_envs), np.zeros(env.num_envs), [[] for _ in range(env.num_envs)]
    while min(map(len, kept)) < episodes:
        _, reward, terminated, truncated, _ = env.step(draw(env.single_action_space, generator, env.num_envs))
        totals, lengths = totals + reward, lengths + 1
        for index in np.flatnonzero(terminated | truncated):
            kept[index].append((totals[index], lengths[index], terminated[index]))
            totals[index] = lengths[index] = 0
    return np.array([row for rows in kept for row in rows[:episodes]])


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "BipedalWalker-v3"])
def test_whole_box2d_episodes_are_as_gymnasiums(env_id):
    env = make(env_id, 10, 120)
    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    theirs = gym.make_vec(env_id, 10, vectorization_mode="sync", vector_kwargs=same_step, max_episode_steps=120)
    rows = [returns(each, 8, np.random.default_rng(1)) for each in (env, theirs)]
    for column in range(3):
        assert ks_2samp(rows[0][:, column], rows[1][:, column]).pvalue > 1e-3


@pytest.mark.parametrize("env_id", DRAWN)
def test_lakes_are_as_slippery_as_gymnasiums(env_id):
    env, table = make(env_id, 100), gym.make(env_id).unwrapped.P
    before, _ = env.reset(seed=0)
    generator, seen = np.random.default_rng(0), {}
    for _ in range(600):
        action = draw(env.single_action_space, generator, 100)
        observation, reward, terminated, _, info = env.step(action)
        for state, move, after, *end in zip(
            before, action, info.get("final_obs", observation), reward, terminated, strict=True
        ):
            ways = [(chance, way[1:]) for chance, *way in table[int(state)][int(move)] if way[0] == after]
            assert tuple(ways[0][1]) == tuple(end)
            visits = seen.setdefault((int(state), int(move)), [])
            visits.append((int(after), sum(chance for chance, _ in ways)))
        before = observation
    often = [visits for visits in seen.values() if len(visits) >= 200]
    assert len(often) > 20
    for visits in often:
        for after, chance in set(visits):
            share = sum(each == after for each, _ in visits) / len(visits)
            assert abs(share - chance) < 5 * math.sqrt(chance * (1 - chance) / len(visits)) + 1e-6


@pytest.mark.parametrize("env_id", sorted(EQUAL_TO_GYMNASIUM - {*DRAWN, "CliffWalking-v1"}))
def test_episodes_start_where_gymnasiums_do(env_id):
    env, single = make(env_id, 100), gym.make(env_id)
    ours = np.concatenate([env.reset(seed=0)[0], env.reset()[0]])
    theirs = np.stack([single.reset(seed=seed)[0] for seed in range(200)])
    for mine, other in zip(ours.T, theirs.T, strict=True):
        if np.ptp(mine) > 1e-9 or np.ptp(other) > 1e-9:
            assert ks_2samp(mine, other).pvalue > 1e-5
        else:
            assert mine[0] == pytest.approx(other[0], abs=1e-9)


def balance(env):
    """Actions that keep a CartPole up for a few steps."""
    return np.arange(env.num_envs) * 0 + env._steps % 2


def test_an_episode_that_lasts_is_truncated_and_the_next_begins_in_the_same_step():
    env = make("CartPole-v1", 2, 4)
    env.reset(seed=0)
    for step in range(1, 13):
        before = env._observation
        observation, reward, terminated, truncated, info = env.step(balance(env))
        last = step % 4 == 0
        assert not terminated.any()
        assert truncated.tolist() == [last] * 2
        assert ("final_obs" in info) == last
        if last:
            assert info["_final_obs"].all()
            moved = np.abs(info["final_obs"] - before).max(axis=1)
            assert ((moved > 0.05) & (moved < 0.8)).all()
            assert (np.abs(observation) <= 0.05).all()
        assert reward.tolist() == [1.0, 1.0]


def test_terminated_and_truncated_in_the_same_step():
    env = make("CartPole-v1", 1)
    env.reset(seed=5)
    length, terminated = 0, np.zeros(1, bool)
    while not terminated[0]:
        _, _, terminated, truncated, _ = env.step(np.zeros(1, np.int64))
        length += 1
    assert not truncated[0]
    for limit, expected in ((length, (True, True)), (length - 1, (False, True)), (length + 1, (True, False))):
        env = make("CartPole-v1", 1, limit)
        env.reset(seed=5)
        for _ in range(min(limit, length)):
            _, _, terminated, truncated, info = env.step(np.zeros(1, np.int64))
        assert (terminated[0], truncated[0]) == expected
        assert "final_obs" in info


def test_environments_without_a_limit_are_never_truncated():
    env = make("CliffWalking-v1", 2)
    assert gym.spec("CliffWalking-v1").max_episode_steps is None
    env.reset(seed=0)
    for _ in range(1500):
        _, _, terminated, truncated, _ = env.step(np.zeros(2, np.int64))
        assert not (terminated | truncated).any()


def test_a_masked_reset_leaves_the_others_alone():
    env = make("CartPole-v1", 4, 12)
    env.reset(seed=0)
    for _ in range(3):
        before = env.step(balance(env))[0]
    kept = before.copy()
    before[:] = 7.0
    mask = np.array([False, True, False, True])
    observation, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(observation[~mask], kept[~mask])
    assert (before == 7.0).all()
    observation[:] = 7.0
    np.testing.assert_array_equal(env.reset(options={"reset_mask": mask})[0][~mask], kept[~mask])
    observation = env.reset(options={"reset_mask": mask})[0]
    assert (np.abs(observation[mask]) <= 0.05).all()
    assert (np.abs(observation[mask] - kept[mask]).max(axis=1) > 0).all()
    truncated = [env.step(balance(env))[3].tolist() for _ in range(12)]
    assert [row.index(True) if True in row else None for row in truncated][8:12] == [0, None, None, 1]
    assert truncated[8] == [True, False, True, False]


@pytest.mark.parametrize("seed", [None, 3])
def test_a_full_reset_begins_every_episode_anew(seed):
    env = make("CartPole-v1", 2, 6)
    env.reset(seed=0)
    for _ in range(4):
        env.step(balance(env))
    observation, _ = env.reset(seed=seed)
    assert (np.abs(observation) <= 0.05).all()
    truncated = [env.step(balance(env))[3].tolist() for _ in range(6)]
    assert truncated == [[False] * 2] * 5 + [[True] * 2]


def test_rows_are_the_environments_and_arrays_are_kept():
    generator, num_envs = np.random.default_rng(0), 40
    env = make("Acrobot-v1", num_envs)
    observation, _ = env.reset(seed=0)
    arrays, copies = [observation], [observation.copy()]
    singles = [gym.make("Acrobot-v1") for _ in range(num_envs)]
    for single, row in zip(singles, observation, strict=True):
        single.reset(seed=0)
        put(single, row)
    for _ in range(30):
        action = draw(env.single_action_space, generator, num_envs)
        observation, reward, *_ = env.step(action)
        theirs = [single.step(each) for single, each in zip(singles, action, strict=True)]
        np.testing.assert_allclose(observation, [row[0] for row in theirs], atol=1e-5)
        np.testing.assert_allclose(reward, [row[1] for row in theirs], atol=1e-4)
        arrays += [observation, reward]
        copies += [observation.copy(), reward.copy()]
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def stream(seed, num_envs=4, steps=60, limit=20):
    env = make("Hopper-v5", num_envs, limit) if isinstance(seed, list) else make("CartPole-v1", num_envs, limit)
    rows, generator = [env.reset(seed=seed)[0]], np.random.default_rng(0)
    rows.extend(env.step(draw(env.single_action_space, generator, num_envs))[0] for _ in range(steps))
    return np.stack(rows)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, [1, 2, 3, 2**32 - 1]])
def test_a_seed_makes_the_streams(seed):
    first = stream(seed)
    np.testing.assert_array_equal(first, stream(seed))
    other = stream([5, 6, 7, 8] if isinstance(seed, list) else 1)
    rows = np.concatenate([first[0], other[0]])
    assert len(np.unique(rows, axis=0)) == 8


def test_seeds_hold_through_make_env_and_reseeding():
    def first(seed):
        return make_env(EnvConfig("CartPole-v1", 4, "envpool"), seed=seed).reset()["observation"]

    assert torch.equal(first(0), first(0))
    assert len(torch.cat([first(0), first(1), first(None), first(None)]).unique(dim=0)) == 16
    env = make("CartPole-v1", 4)
    start = env.reset(seed=9)[0]
    env.step(balance(env))
    later = env.reset()[0]
    assert len(np.unique(np.concatenate([start, later]), axis=0)) == 8
    np.testing.assert_array_equal(env.reset(seed=9)[0], start)


def test_threads_change_nothing(monkeypatch):
    both = []
    for threads in (1, 3):
        monkeypatch.setattr(
            "rlpipe.pipelines.envs.backends.envpool._count_threads", lambda num_envs, threads=threads: threads
        )
        both.append(stream([1, 2, 3, 4]))
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "LunarLander-v3", "InvertedDoublePendulum-v5"],
)
def test_specs_hold(env_id, num_envs):
    make(env_id)
    env = make_env(EnvConfig(env_id, num_envs, "envpool"), seed=0)
    check_env_specs(env)
    other = make_env(EnvConfig(env_id, num_envs, "sync"), seed=0)
    assert env.observation_spec == other.observation_spec
    assert env.full_action_spec == other.full_action_spec
    assert env.reset()["observation"].is_contiguous()
    env.close()
    other.close()


def make_policy(env):
    torch.manual_seed(0)
    features, space = env.observation_spec["observation"].shape[-1], env.action_spec
    if space.dtype.is_floating_point:
        return GaussianActor(nn.Sequential(MLP(features, space.shape[-1])), space)
    return CategoricalActor(nn.Sequential(MLP(features, int(space.space.n))), space)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCarContinuous-v0"])
@pytest.mark.parametrize("num_envs", [1, 8])
def test_the_lean_collector_equals_the_stock_one_bit_for_bit(env_id, num_envs, identical):
    batches = []
    for kind in (Collector, SyncDataCollector):
        env = make_env(EnvConfig(env_id, num_envs, "envpool", max_episode_steps=17), seed=4)
        frames = 25 * num_envs
        options = {"frames_per_batch": frames, "total_frames": 4 * frames, "auto_register_policy_transforms": False}
        collector = kind(env, make_policy(env), **options)
        torch.manual_seed(1)
        batches.append(list(collector))
        collector.shutdown()
    for stock, lean in zip(*batches, strict=True):
        identical(lean, stock)
    assert sum(int(batch["next", "done"].sum()) for batch in batches[1]) > 0


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Humanoid-v4", "env-id is 'Humanoid-v4', and EnvPool has no version known to match .* it has Humanoid-v5"),
        ("CliffWalkingSlippery-v1", "EnvPool has no version known to match Gymnasium's; it has CliffWalking-v1"),
        ("CarRacing-v3", "EnvPool has no version known to match"),
        ("Pendulum-v1", "EnvPool has no version known to match"),
        ("tests/Counter-v0", "EnvPool has no version known to match Gymnasium's; backend 'auto' has all"),
        ("CartPol-v1", "which Gymnasium does not know"),
    ],
)
def test_environments_that_cannot_be_had(env_id, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_env(EnvConfig(env_id, backend="envpool"))
    assert "\n" not in str(caught.value)


def test_an_environment_of_ones_own_under_gymnasiums_name_is_refused(monkeypatch):
    monkeypatch.setitem(gym.registry, "CartPole-v1", gym.envs.registration.EnvSpec("CartPole-v1", "mine:CartPole"))
    with pytest.raises(ConfigError, match="EnvPool has no version known to match"):
        make_env(EnvConfig("CartPole-v1", backend="envpool"))


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match=r'package is missing: pip install "rlpipe\[envpool\]"'):
        make_env(EnvConfig("CartPole-v1", backend="envpool"))


def test_it_does_not_draw():
    with pytest.raises(ConfigError, match="render_mode is 'rgb_array'; backend 'envpool' draws nothing"):
        make_env(EnvConfig("CartPole-v1", backend="envpool"), render_mode="rgb_array")


def test_a_step_before_the_first_reset_and_after_the_end():
    env = make("CartPole-v1", 2)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(2, np.int64))
    env.reset()
    env.close()
    env.close()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(2, np.int64))


def test_importing_and_making_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_env(EnvConfig("CartPole-v1", 2, "envpool")).close()


@pytest.mark.learning
def test_ppo_learns_cartpole_on_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "--backend",
        "envpool",
        "--total-frames",
        "30000",
        "--eval-every",
        "30000",
        "--final-eval-episodes",
        "10",
    ]
    assert run(["train", "ppo", *options, "--json", "--quiet"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["evaluation"]["mean"] > 150
