"""Bins and normalised observations: by hand, against NumPy and TorchRL's own, and frozen in evaluation."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from torchrl.data import Categorical
from torchrl.envs import Compose, DoubleToFloat, GymEnv, ObservationNorm, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.pipelines import ppo
from rlpipe.pipelines.build import observation_norm
from rlpipe.pipelines.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.envs import BinObservation, EnvConfig, make_env
from rlpipe.pipelines.evaluation import evaluate
from rlpipe.pipelines.seeding import Seeds
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
        "rlpipe.pipelines.build.observation_norm",
        lambda *_: ObservationNorm(
            torch.full((3,), 50.0), torch.full((3,), 9.0), in_keys=["observation"], standard_normal=True
        ),
    )
    run(["evaluate", "run", "--episodes", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["evaluation"] == trained


@pytest.mark.parametrize(
    ("env_id", "frames", "message"),
    [
        ("FrozenLake-v1", 400, "normalize_frames needs a Box observation of floats, and 'FrozenLake-v1' has none"),
        ("CartPole-v1", 39, "normalize_frames is 39; allowed is 40 or more, 10 an environment"),
    ],
)
def test_what_cannot_be_normalised_is_refused(env_id, frames, message):
    with pytest.raises(ConfigError, match=message):
        observation_norm(EnvConfig(env_id, 4), frames, Seeds(0))
