"""Running normalisation by hand, against Stable-Baselines3's, on both paths of the collector, held, saved, exported."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from comparing import fingerprint
from gymnasium.spaces import Box, Dict, Discrete
from resuming import go, killed, make_config
from safetensors.torch import load_file
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import CheckpointError, ConfigError
from rlpipe.modules import MLP, CategoricalActor, GaussianActor
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, OneHotObservation, make_env
from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.main import run

BOTH = {"normalize_observation": True, "normalize_reward": True}
SMALL = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "hidden": (8,), "loggers": None}
SHORT = {**SMALL, "total_frames": 256, "eval_every": None, "final_eval_episodes": 2}


class Counting(gym.Env):
    """Observes 0, 10, 20, ... and is given 1, 2, 3, ... for them; an episode has `length` steps."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float64)
    action_space = Discrete(2)

    def __init__(self, length=3):
        self.length = length

    def out(self):
        return np.array([10.0 * self.time])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        self.time += 1
        return self.out(), float(self.time), self.time >= self.length, False, {}


class Entries(gym.Env):
    """A Dict of floats of both kinds, bytes, and a nested entry."""

    observation_space = Dict(
        {
            "far": Box(-np.inf, np.inf, (2,), np.float64),
            "image": Box(0, 255, (3, 2), np.uint8),
            "place": Discrete(3),
            "robot": Dict({"joints": Box(-1e6, 1e6, (2, 2), np.float32)}),
        }
    )
    action_space = Box(-1, 1, (1,))

    def out(self):
        return {
            "far": 5_500_000.3 + 0.1 * self.np_random.normal(size=2),
            "image": self.np_random.integers(0, 256, (3, 2), np.uint8),
            "place": self.np_random.integers(3),
            "robot": {"joints": self.np_random.normal(size=(2, 2)).astype(np.float32)},
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        self.time += 1
        return self.out(), float(self.np_random.normal()), self.time >= 4, False, {}


class Far(gym.Env):
    """Observes a number around `at`, a tenth to either side, and rewards telling the side."""

    action_space = Discrete(2)

    def __init__(self, at=0.0, by=0.1, reward=1.0, dtype=np.float64):
        self.at, self.by, self.reward = at, by, reward
        self.observation_space = Box(-np.inf, np.inf, (1,), dtype)

    def out(self):
        self.x = self.np_random.normal()
        return np.array([self.at + self.by * self.x], self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        reward = self.reward * float(action == (self.x > 0))
        self.time += 1
        return self.out(), reward, self.time >= 10, False, {}


gym.register("tests/Counting-v0", Counting)
gym.register("tests/Entries-v0", Entries)
FAR = {
    "stamp": {"at": 1_700_000_077.0},
    "metres": {"at": -5_500_000.3},
    "single": {"at": 5_500_000.0, "by": 3.0, "dtype": np.float32},
    "near": {},
    "large": {"at": 3e4, "by": 1e4, "reward": 1e4},
}
for name, options in FAR.items():
    gym.register(f"tests/Far-{name}-v0", Far, kwargs=options)


def make_actor(env):
    torch.manual_seed(0)
    keys = [key for key in ("observation", "far") if key in env.observation_spec.keys()]
    network = MLP(env.observation_spec[keys[0]].shape[-1], env.action_spec.space.n, (8,))
    return CategoricalActor(network, env.action_spec, torch.Generator().manual_seed(0))


def collected(kind, env, actor, steps, batches=3):
    frames = env.batch_size[0] * steps
    collector = kind(
        env, actor, frames_per_batch=frames, total_frames=frames * batches, auto_register_policy_transforms=False
    )
    return collector, [batch.clone() for batch in collector]


def test_by_hand():
    norms = [RunningObservationNorm(), RunningRewardNorm(0.5)]
    env = make_env(EnvConfig("tests/Counting-v0"), seed=0, transforms=norms)
    batch = next(iter(SyncDataCollector(env, make_actor(env), frames_per_batch=4, total_frames=4)))
    # those acted on are 0, 10, 20, and 0 of the next episode; the last, 30, is not counted
    roots = [np.array([0.0]), np.array([0.0, 10.0]), np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0, 0.0])]
    normal = lambda seen, known: (seen - known.mean()) / np.sqrt(known.var() + 1e-8)  # noqa: E731
    expected = [normal(each[-1], each) for each in roots]
    np.testing.assert_allclose(batch["observation"].flatten(), expected, rtol=1e-6, atol=1e-6)
    last = normal(30.0, roots[3])
    after = [*expected[1:3], last, normal(10.0, np.array([0.0, 10.0, 20.0, 0.0, 10.0]))]
    np.testing.assert_allclose(batch["next", "observation"].flatten(), after, rtol=1e-6)
    # rewards 1, 2, 3, then 1: discounted returns 1, 2.5, 4.25, and 1 of the next episode
    returns = [1.0, 2.5, 4.25, 1.0]
    stds = [np.sqrt(np.var(returns[: index + 1]) + 1e-8) for index in range(4)]
    rewards = np.clip(np.array([1.0, 2.0, 3.0, 1.0]) / stds, -10, 10)
    np.testing.assert_allclose(batch["next", "reward"].flatten(), rewards, rtol=1e-6)
    assert batch["next", "reward"][0, 0] == 10.0
    # what is reported is the environment's own
    assert batch["next", "episode_reward"].flatten().tolist() == [1.0, 3.0, 6.0, 1.0]
    assert norms[1].returns.tolist() == [1.0]


class Replayed:
    """A vector environment of Stable-Baselines3 that returns what was collected, `[num_envs, T]`."""

    render_mode, metadata, reset_infos, time = None, {}, [], 0

    def __init__(self, batch, space):
        self.batch, self.num_envs, self.observation_space, self.action_space = batch, len(batch), space, Discrete(2)

    def get_attr(self, name, indices=None):
        return [None] * self.num_envs

    def reset(self):
        return self.batch["observation"][:, 0].double().numpy()

    def step_async(self, actions):
        pass

    def step_wait(self):
        after, self.time = self.batch["next"][:, self.time], self.time + 1
        done = after["done"][:, 0].numpy()
        infos = [{"terminal_observation": each.double().numpy()} for each in after["observation"]]
        reward = after["reward"][:, 0].double().numpy()
        return self.batch["observation"][:, self.time].double().numpy(), reward, done, infos


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("pseudo", "tolerance"), [(None, 0.15), (1e-12, 1e-5)])
def test_equals_stable_baselines3_on_the_same_stream(num_envs, pseudo, tolerance):
    vec_env, steps = pytest.importorskip("stable_baselines3.common.vec_env"), 200
    batches = []
    for norms in ([], [RunningObservationNorm(), RunningRewardNorm(0.9)]):
        env = make_env(EnvConfig("MountainCar-v0", num_envs, max_episode_steps=13), seed=0, transforms=norms)
        actor = make_actor(env)
        # draws the same actions whatever it sees
        torch.nn.init.zeros_(actor.network[-1].weight)
        batches.append(collected(SyncDataCollector, env, actor, steps, 1)[1][0])
    raw, ours = batches
    assert torch.equal(raw["action"], ours["action"])
    theirs = vec_env.VecNormalize(Replayed(raw, env.base_env.envs.single_observation_space), gamma=0.9)
    if pseudo is not None:
        # without theirs, 1e-4 observations of 0 with variance 1, which shows in a velocity of variance 5e-5
        theirs.obs_rms.count = theirs.ret_rms.count = pseudo
    begin = 0 if pseudo else 100
    seen = [theirs.reset()]
    after, rewards = [], []
    for time in range(steps - 1):
        observation, reward, done, infos = theirs.step(raw["action"][:, time].numpy())
        seen.append(observation)
        rewards.append(reward)
        last = np.stack([each["terminal_observation"] for each in infos])
        # theirs only normalises it at the end of an episode
        after.append(np.where(done[:, None], last, observation))
    assert raw["next", "done"].sum() >= 15 * num_envs
    pairs = [(ours["observation"], seen), (ours["next", "observation"], after), (ours["next", "reward"], rewards)]
    for own, their in pairs:
        expected = np.stack(their, 1)
        given = own[:, : expected.shape[1]].numpy().reshape(expected.shape)
        np.testing.assert_allclose(given[:, begin:], expected[:, begin:], rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_envs", [1, 3, 70])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "tests/Far-single-v0", "Pendulum-v1"])
def test_lean_batches_equal_the_stock_ones(env_id, num_envs):
    results = []
    for kind in (Collector, SyncDataCollector):
        norms = [RunningObservationNorm(clip=2.0), RunningRewardNorm(0.9)]
        env = make_env(EnvConfig(env_id, num_envs, max_episode_steps=11), seed=0, transforms=norms)
        torch.manual_seed(0)
        features, generator = env.observation_spec["observation"].shape[-1], torch.Generator().manual_seed(0)
        if env_id == "Pendulum-v1":
            actor = GaussianActor(MLP(features, 1, (8,)), env.action_spec, generator, batch_dims=1)
        else:
            actor = CategoricalActor(MLP(features, 2, (8,)), env.action_spec, generator)
        collector, batches = collected(kind, env, actor, 15)
        if kind is SyncDataCollector:
            assert collector.is_lean()
        results.append((batches, norms))
    (stock, theirs), (lean, ours) = results
    for one, other in zip(stock, lean, strict=True):
        for key in other.keys(True, True):
            assert torch.equal(one[key], other[key]), key
            assert one[key].dtype is other[key].dtype, key
    assert lean[0]["next", "done"].any()
    for one, other in zip(theirs, ours, strict=True):
        assert str(one.state_dict()) == str(other.state_dict())
    assert theirs[1].returns.tolist() == ours[1].returns.tolist()


def test_entries_of_floats_are_normalised_and_others_are_not():
    env = make_env(EnvConfig("tests/Entries-v0", 3), seed=0, transforms=[RunningObservationNorm()])
    check_env_specs(env)
    norm = env.transform[0]
    assert set(norm.in_keys) == {"far", ("robot", "joints")}
    env.reset()
    rollout = env.rollout(200, break_when_any_done=False)["next"]
    raw = make_env(EnvConfig("tests/Entries-v0", 3), seed=0)
    assert {key: spec.dtype for key, spec in raw.observation_spec.items(True, True) if key in ("image", "place")} == {
        key: rollout[key].dtype for key in ("image", "place")
    }
    for key in norm.in_keys:
        late = rollout[key][:, 100:]
        assert late.dtype == torch.float32
        assert abs(float(late.mean())) < 0.1
        assert abs(float(late.std()) - 1) < 0.1


@pytest.mark.parametrize("name", ["stamp", "metres", "single", "near"])
def test_observations_far_from_0_are_normalised_as_well_as_others(name):
    env = make_env(EnvConfig(f"tests/Far-{name}-v0", 4), seed=1, transforms=[RunningObservationNorm()])
    seen = env.rollout(500, break_when_any_done=False)["observation"][:, 100:].double()
    # float32 has a step of 0.5 there
    assert abs(float(seen.mean())) < 0.1
    assert abs(float(seen.std()) - 1) < 0.1
    assert len(seen.unique()) > (20 if name == "single" else 1000)


def test_a_feature_that_never_moves_is_0():
    norm = RunningObservationNorm()
    env = make_env(EnvConfig("tests/Still-v0", 2), seed=0, transforms=[norm])
    seen = env.rollout(40, break_when_any_done=False)["observation"]
    assert torch.isfinite(seen).all()
    assert (seen[..., 1] == 0).all()


@pytest.mark.parametrize("batch", [(), (2,)])
def test_environments_of_torchrl_count_each_observation_that_is_acted_on(batch):
    seen = []

    class Noted(RunningObservationNorm):
        def _update(self, values, rows):
            value = values["observation"].reshape(-1, 3)
            seen.append(value.clone() if rows is None else value[rows.reshape(-1)])
            super()._update(values, rows)

    make = lambda: GymEnv("Pendulum-v1", max_episode_steps=5)  # noqa: E731
    norms = [Noted(), RunningRewardNorm(0.9)]
    env = TransformedEnv(SerialEnv(2, make) if batch else make())
    for each in norms:
        env.append_transform(each)
    env.rollout(12, break_when_any_done=False)
    counted = torch.cat(seen).double().numpy()
    # 13 that are acted on, each once
    assert len(counted) == 13 * (2 if batch else 1)
    np.testing.assert_allclose(norms[0].each()[0].now.mean, counted.mean(0), rtol=1e-9)
    assert norms[1].returns.shape == (2 if batch else 1,)
    env.close()


def test_another_transform_before_it_takes_the_stock_path():
    norm = RunningObservationNorm()
    env = make_env(EnvConfig("FrozenLake-v1", 3), seed=0, transforms=[OneHotObservation(), norm])
    torch.manual_seed(0)
    collector, batches = collected(SyncDataCollector, env, CategoricalActor(MLP(16, 4, (8,)), env.action_spec), 20, 1)
    assert not collector.is_lean()
    assert norm.each()[0].now.number == 3 * 21
    assert batches[0]["observation"].abs().max() <= 10


def test_results_are_clipped():
    env = make_env(EnvConfig("tests/Counting-v0"), seed=0, transforms=[RunningObservationNorm(clip=0.5)])
    batch = next(iter(SyncDataCollector(env, make_actor(env), frames_per_batch=30, total_frames=30)))
    assert {float(each) for each in (batch["observation"].min(), batch["observation"].max())} == {-0.5, 0.5}
    assert float(batch["next", "observation"].max()) == 0.5
    assert env.observation_spec["observation"].is_in(batch["observation"][:, 0])


def test_an_evaluation_holds_the_statistics(monkeypatch):
    copies, clone = [], RunningObservationNorm.clone

    def noted(norm):
        copies.append(clone(norm))
        return copies[-1]

    monkeypatch.setattr(RunningObservationNorm, "clone", noted)
    norms = [RunningObservationNorm(), RunningRewardNorm(0.9)]
    env = make_env(EnvConfig("tests/Far-near-v0", 4), seed=0, transforms=norms)
    actor, config = make_actor(env), EnvConfig("tests/Far-near-v0")
    with pytest.raises(ConfigError, match="RunningObservationNorm has no statistics yet"):
        evaluate(actor, config, episodes=2, seed=1, transforms=[RunningObservationNorm()])
    collected(SyncDataCollector, env, actor, 30)
    copies.clear()
    before = str([norm.state_dict() for norm in norms])
    few, many = (evaluate(actor, config, episodes=n, seed=1, transforms=norms) for n in (3, 60))
    assert str([norm.state_dict() for norm in norms]) == before
    assert len(copies) >= 2
    assert {str(each.state_dict()) for each in copies} == {str(norms[0].state_dict())}
    # the same statistics from the first episode to the last, and returns of the environment
    assert few.returns == many.returns[:3]
    assert {value % 1 for value in many.returns} == {0.0}
    assert max(many.returns) > 1
    assert not norms[0].frozen


@pytest.mark.parametrize("kind", ["normalized", "mujoco"])
def test_a_killed_run_resumes_to_the_bit(kind, tmp_path):
    config = make_config("ppo", kind)
    go(tmp_path / "whole", "ppo", config)
    killed(tmp_path / "cut", "ppo", config, "learn", 4)
    go(tmp_path / "cut", "ppo", config)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_the_discounted_return_of_an_unfinished_episode_is_resumed(tmp_path):
    pipelines = [
        ppo.build(ppo.Config(seed=seed, **{**BOTH, "num_envs": 4, "rollout_steps": 16, "minibatch_size": 32}))
        for seed in (0, 1)
    ]
    first, second = pipelines
    batches = iter(first.collector)
    next(batches)
    norms = [each.transforms[1] for each in pipelines]
    assert norms[0].returns.min() > 1
    save_checkpoint(tmp_path / "saved", first.state, {})
    load_checkpoint(tmp_path / "saved", second.state)
    assert norms[1].returns.tolist() == norms[0].returns.tolist()
    ours, theirs = next(batches), next(iter(second.collector))
    assert torch.equal(ours["next", "reward"], theirs["next", "reward"])
    assert torch.equal(ours["observation"], theirs["observation"])
    for each in pipelines:
        each.close()


def test_statistics_of_another_shape_are_refused(tmp_path):
    first, second = (ppo.build(ppo.Config(env_id=env_id, **BOTH)) for env_id in ("CartPole-v1", "Acrobot-v1"))
    save_checkpoint(tmp_path / "saved", first.state, {})
    with pytest.raises(CheckpointError, match=r"'observation_norm' does not fit: .*shape \[4\], expected \[6\]"):
        load_checkpoint(tmp_path / "saved", second.state, ["observation_norm"])
    for each in (first, second):
        each.close()
    norm = RunningObservationNorm()
    make_env(EnvConfig("CartPole-v1"), transforms=[norm]).close()
    with pytest.raises(ConfigError, match=r"statistics of 'observation' have shape \[4\], and .* has \[6\]"):
        make_env(EnvConfig("Acrobot-v1"), transforms=[norm.clone()])


def test_a_run_evaluates_and_goes_on_with_its_statistics(tmp_path, capsys):
    whole = run_recipe("ppo", env_id="Pendulum-v1", folder=tmp_path / "run", **BOTH, **SHORT)
    assert run(["evaluate", str(tmp_path / "run"), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["mean"] == whole["evaluation"]["mean"]
    with trained(tmp_path / "run") as agent:
        norm = agent.transforms[0]
        # 64 steps of 4 environments, and their first reset
        assert norm.each()[0].now.number == 4 * 65
    start = ["train", "ppo", "--env-id", "Pendulum-v1", "--num-envs", "2", "--hidden", "8", "--total-frames", "128"]
    start += ["--start-from", str(tmp_path / "run"), "--quiet", "--final-eval-episodes", "1", "--eval-every", "none"]
    norms = ["--normalize-observation", "--normalize-reward"]
    assert run([*start, *norms, "--run-dir", str(tmp_path / "next")]) == 0
    with trained(tmp_path / "next") as agent:
        assert agent.transforms[0].each()[0].now.number == 4 * 65 + 2 * 64
    assert run([*start, "--run-dir", str(tmp_path / "none")]) == 2
    assert "normalize_observation is False, and start-from" in capsys.readouterr().err


def test_an_export_has_the_statistics(tmp_path):
    run_recipe("ppo", env_id="tests/Far-stamp-v0", folder=tmp_path / "run", normalize_observation=True, **SHORT)
    for kind in ("torch", "safetensors"):
        assert run(["export", str(tmp_path / "run"), "--format", kind, "--out", str(tmp_path / kind)]) == 0
    tensors = load_file(tmp_path / "safetensors")
    assert tensors["observation.mean"].dtype == torch.float64
    assert abs(float(tensors["observation.mean"]) - 1_700_000_077.0) < 0.1
    program = torch.export.load(tmp_path / "torch").module()
    left, right = (program(torch.full((1, 1), 1_700_000_077.0 + x, dtype=torch.float64)) for x in (-0.2, 0.2))
    assert {int(left), int(right)} <= {0, 1}


def test_an_older_run_is_read_or_refused_in_one_line(tmp_path, capsys):
    run_recipe("ppo", folder=tmp_path / "run", progress=False, **SHORT)
    file = tmp_path / "run" / "config.json"
    described = json.loads(file.read_text())
    for name in (*BOTH, "clip_observation", "clip_reward", "initial_std"):
        del described["config"][name]
    for frames, code, message in ((None, 0, ""), (1000, 2, "unknown field 'normalize_frames'; it is normalize_obs")):
        file.write_text(json.dumps({**described, "config": {**described["config"], "normalize_frames": frames}}))
        assert run(["evaluate", str(tmp_path / "run"), "--episodes", "1"]) == code
        told = capsys.readouterr().err
        assert message in told
        assert len(told.strip().splitlines()) == (code > 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_large_observations_and_rewards_need_normalisation(seed, tmp_path):
    options = {"num_envs": 8, "rollout_steps": 16, "minibatch_size": 64, "hidden": (32,), "lr": 3e-3, "gamma": 0.0}
    options |= {"total_frames": 6000, "seed": seed, "eval_every": None, "final_eval_episodes": 20, "loggers": None}
    scores = [
        run_recipe("ppo", env_id="tests/Far-large-v0", folder=tmp_path / str(norms), **norms, **options)["evaluation"]
        for norms in ({}, BOTH)
    ]
    plain, normalised = (each["mean"] / 1e4 for each in scores)
    assert normalised > 9
    assert plain < 8


class Empty(Counting):
    """Has an entry of no numbers."""

    observation_space = Dict(none=Box(-1.0, 1.0, (0,)), time=Box(-np.inf, np.inf, (1,), np.float64))

    def out(self):
        return {"none": np.zeros(0, np.float32), "time": super().out()}


def test_an_entry_of_no_numbers_has_no_statistics_to_learn():
    env = make_env(EnvConfig(Empty, 2), seed=0, transforms=[RunningObservationNorm()])
    assert env.rollout(5, break_when_any_done=False)["none"].shape == (2, 5, 0)
