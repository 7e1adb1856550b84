"""Bins and normalised observations: by hand, against NumPy and TorchRL's own, and frozen in evaluation."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.torch import load_file
from torchrl.data import Categorical
from torchrl.envs import Compose, DoubleToFloat, GymEnv, ObservationNorm, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import encoder
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.build.environment import observation_norm
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import BinObservation, EnvConfig, make_env
from rlpipe.pipelines.envs.transforms import Standardize
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.session import run_recipe
from rlpipe.scripts.main import run

PPO = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "normalize_frames": 200}


@pytest.mark.parametrize(
    ("observation", "index"),
    [
        # two bins of width 1 from -1 to 1, three features: the first counts 4, the second 2
        ([-0.5, -0.5, -0.5], 0),
        ([0.5, -0.5, -0.5], 4),
        ([-0.5, 0.5, -0.5], 2),
        ([-0.5, -0.5, 0.5], 1),
        # a limit belongs to the bin above it, and what is beyond to the outermost
        ([0.0, -1.0, 0.99], 5),
        ([9.0, -9.0, 1.0], 5),
        ([np.inf, -np.inf, np.inf], 5),
    ],
)
def test_bins_by_hand(observation, index):
    transform = BinObservation(2, [-1.0] * 3, [1.0] * 3)
    transform._dims = 1
    for shape in ((), (4,), (2, 5)):
        observed = torch.tensor(observation).expand(*shape, 3)
        assert transform._apply_transform(observed).tolist() == torch.full(shape, index).tolist()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_binned_cartpole_is_a_discrete_environment(num_envs):
    bins = BinObservation(6, [-2.4, -3.0, -0.418, -2.0], [2.4, 3.0, 0.418, 2.0])
    env = make_env(EnvConfig("CartPole-v0", num_envs), seed=0, transforms=[bins])
    check_env_specs(env)
    spec = env.observation_spec["observation"]
    assert isinstance(spec, Categorical)
    assert (spec.space.n, spec.shape) == (6**4, (num_envs,))
    assert env.reset()["observation"].dtype == torch.int64
    # near the upright middle each feature is in the third or the fourth of six bins
    digits = [int(env.reset()["observation"][0]) // 6**place % 6 for place in range(4)]
    assert set(digits) <= {2, 3}


@pytest.mark.parametrize(
    ("env_id", "low", "high", "message"),
    [
        ("CartPole-v1", [0.0] * 3, [1.0] * 3, "bins are given for 3 features, and the observation is a Box of 4"),
        ("FrozenLake-v1", [0.0], [1.0], "bins are given for 1 features, and the observation is no Box"),
        ("CartPole-v1", [0.0] * 4, [1.0, 1.0, 0.0, 1.0], "each upper limit must be above its lower one"),
        ("CartPole-v1", [0.0] * 4, [1.0] * 3, "each upper limit must be above its lower one"),
    ],
)
def test_bins_that_do_not_fit_are_refused(env_id, low, high, message):
    with pytest.raises(ConfigError, match=message):
        make_env(EnvConfig(env_id), transforms=[BinObservation(5, low, high)])


def test_statistics_are_numpys_over_random_frames():
    config, seeds = EnvConfig("Pendulum-v1", 4), Seeds(3)
    norm = observation_norm(config, 90, seeds)
    env = make_env(config, seed=seeds.integer("normalization"))
    with seeds.torch_seeded("normalization"):
        rollout = env.rollout(23, break_when_any_done=False)["observation"]
    # in the order of time, so that the frames left out are those of the last step
    frames = rollout.numpy().swapaxes(0, 1).reshape(-1, 3)[:90].astype(np.float64)
    np.testing.assert_allclose(norm.loc.numpy(), frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.scale.numpy(), frames.std(0, ddof=1), rtol=1e-6)


def test_a_feature_that_never_moves_is_not_divided_by_nothing():
    norm = observation_norm(EnvConfig("tests/Still-v0", 2), 40, Seeds(0))
    assert norm.scale[1] == 1.0
    assert torch.isfinite(norm._apply_transform(torch.ones(2))).all()


def test_normalised_environment_equals_torchrls_own():
    pytest.importorskip("mujoco")
    env_id = "InvertedDoublePendulum-v5"
    norm = observation_norm(EnvConfig(env_id, 1), 100, Seeds(0))
    ours = make_env(EnvConfig(env_id, 1), transforms=[norm.clone()])
    check_env_specs(ours)
    stock = TransformedEnv(
        GymEnv(env_id),
        Compose(
            DoubleToFloat(in_keys=["observation"]),
            ObservationNorm(norm.loc, norm.scale, ["observation"], standard_normal=True),
        ),
    )
    raw = gym.make(env_id)
    # both are made to stand where a plain environment stands
    observation, _ = raw.reset(seed=0)
    expected = (observation - norm.loc.numpy()) / norm.scale.numpy()
    for env in (ours, stock):
        raw_state = torch.from_numpy(observation).expand(*env.batch_size, -1)
        seen = env.transform._call(env.base_env.reset().set("observation", raw_state))
        np.testing.assert_allclose(seen["observation"].numpy().reshape(-1), expected, rtol=1e-4)


def test_observations_are_normalised_in_training():
    pipeline = ppo.build(ppo.Config(env_id="Pendulum-v1", **PPO))
    batch = next(iter(pipeline.collector))
    norm = pipeline.state["observation_norm"][0]
    raw = make_env(EnvConfig("Pendulum-v1", 4), seed=Seeds(0).integer("environments")).reset()["observation"]
    torch.testing.assert_close(batch["observation"][:, 0], (raw - norm.loc) / norm.scale)
    pipeline.close()


def test_statistics_come_from_the_checkpoint_and_stay_as_they_are(tmp_path):
    first, second = (ppo.build(ppo.Config(env_id="Pendulum-v1", seed=seed, **PPO)) for seed in (0, 1))
    save_checkpoint(tmp_path / "saved", first.state, {})
    ours, theirs = (each.state["observation_norm"][0] for each in (first, second))
    assert not torch.equal(ours.loc, theirs.loc)
    load_checkpoint(tmp_path / "saved", second.state, ["policy", "observation_norm"])
    before = ours.loc.clone()
    results = [
        evaluate(each.policy, EnvConfig("Pendulum-v1"), episodes=3, seed=5, transforms=each.transforms)
        for each in (first, second)
    ]
    assert results[0] == results[1]
    assert evaluate(first.policy, EnvConfig("Pendulum-v1"), episodes=3, seed=5) != results[0]
    assert torch.equal(ours.loc, before)
    assert torch.equal(theirs.loc, before)
    for pipeline in (first, second):
        pipeline.close()


def test_evaluate_uses_the_saved_statistics(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--num-envs", "4", "--rollout-steps", "16", "--minibatch-size", "32", "--total-frames", "640"]
    quick = ["--eval-every", "10000", "--final-eval-episodes", "3", "--quiet", "--json", "--run-dir", "run"]
    run(["train", "ppo", "--env-id", "Pendulum-v1", "--normalize-frames", "200", *options, *quick])
    trained = json.loads(capsys.readouterr().out)["evaluation"]
    # what another version of the environment would give
    monkeypatch.setattr(
        "rlpipe.pipelines.build.environment.observation_norm",
        lambda *_: ObservationNorm(
            torch.full((3,), 50.0), torch.full((3,), 9.0), in_keys=["observation"], standard_normal=True
        ),
    )
    run(["evaluate", "run", "--episodes", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["evaluation"] == trained


@pytest.mark.parametrize(
    ("env_id", "frames", "message"),
    [
        ("FrozenLake-v1", 400, "normalize_frames needs a Box observation, and 'FrozenLake-v1' has none"),
        ("CartPole-v1", 39, "normalize_frames is 39; allowed is 40 or more, 10 an environment"),
    ],
)
def test_what_cannot_be_normalised_is_refused(env_id, frames, message):
    with pytest.raises(ConfigError, match=message):
        observation_norm(EnvConfig(env_id, 4), frames, Seeds(0))


class Far(gym.Env):
    """Observes numbers around `at`, a tenth to either side."""

    action_space = Discrete(2)

    def __init__(self, at=1_700_000_077.0, dtype=np.float64, step=0.1):
        self.at, self.by = at, step
        self.observation_space = Box(-np.inf, np.inf, (2,), dtype)

    def out(self):
        return (np.array([self.at, 0.0]) + self.by * self.np_random.normal(size=2)).astype(self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.out(), {}

    def step(self, action):
        self.time += 1
        return self.out(), 1.0, False, self.time >= 10, {}


FAR = {
    "stamp": {},
    "metres": {"at": 5_500_000.3},
    "negative": {"at": -5_500_000.3, "dtype": np.float32, "step": 3.0},
    "whole": {"at": 1_700_000_077, "dtype": np.int64, "step": 30.0},
    "small": {"at": 1e-8, "step": 1e-9},
    "near": {"at": 10.0},
}
for name, options in FAR.items():
    gym.register(f"tests/Far-{name}-v0", Far, kwargs=options)


@pytest.mark.parametrize("name", FAR)
def test_observations_far_from_0_are_normalised_as_well_as_others(name):
    config = EnvConfig(f"tests/Far-{name}-v0", 4)
    norm = observation_norm(config, 4_000, Seeds(0))
    assert type(norm) is (ObservationNorm if name in ("near", "small") else Standardize)
    env = make_env(config, seed=1, transforms=[norm])
    check_env_specs(env)
    seen = env.rollout(1_000, break_when_any_done=False)["observation"].double().flatten(0, 1)
    torch.testing.assert_close(seen.mean(0), torch.zeros(2).double(), rtol=0, atol=0.1)
    torch.testing.assert_close(seen.std(0), torch.ones(2).double(), rtol=0, atol=0.1)
    env.close()


def test_a_feature_that_does_not_move_is_not_divided():
    gym.register("tests/Far-still-v0", Far, kwargs={"at": 1e9, "step": 0.0})
    norm = observation_norm(EnvConfig("tests/Far-still-v0", 4), 100, Seeds(0))
    assert norm.scale.tolist() == [1.0, 1.0]


def test_statistics_far_from_0_are_kept_and_exported(tmp_path, capsys):
    options = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "total_frames": 128, "final_eval_episodes": 2}
    run_recipe("ppo", env_id="tests/Far-stamp-v0", normalize_frames=400, folder=tmp_path / "run", **options)
    with trained(tmp_path / "run") as agent:
        statistics = agent.pipeline.state["observation_norm"]
        assert statistics[0].loc.dtype == torch.float64
        assert abs(float(statistics[0].loc[0]) - 1_700_000_077.0) < 0.1
        # a run of before has them in float32
        old = {
            key: value.float() if value.is_floating_point() else value for key, value in statistics.state_dict().items()
        }
        statistics.load_state_dict(old)
        assert statistics[0].loc.dtype == torch.float32
    for kind in ("torch", "safetensors"):
        assert run(["export", str(tmp_path / "run"), "--format", kind, "--out", str(tmp_path / kind)]) == 0
    tensors = load_file(tmp_path / "safetensors")
    assert tensors["observation.mean"].dtype == torch.float64


class Bounds(Far):
    def __init__(self, space):
        super().__init__()
        self.observation_space = space

    def out(self):
        return self.np_random.integers(self.observation_space.low, self.observation_space.high + 1)


def test_numbers_between_bounds_far_from_0_are_counted_from_the_lower_one():
    low, high = np.array([10**9, 0]), np.array([10**9 + 10, 10])
    gym.register("tests/Between-v0", lambda **_: Bounds(Box(low, high, dtype=np.int64)))
    env = make_env(EnvConfig("tests/Between-v0", 2), seed=0)
    first = encoder(env.observation_spec["observation"])
    seen = env.reset()["observation"]
    assert torch.equal(first(seen), (seen - torch.from_numpy(low)).float())
    env.close()
