"""The recipes have their sources' figures: what is built is looked at, not the table it is built from."""

import pytest
import torch

from rlpipe.modules.networks import Tanh
from rlpipe.pipelines.algorithms.recipes import builder, find_recipe

ADAM, ADAMW = torch.optim.Adam, torch.optim.AdamW
RELU, SILU, TANH = torch.nn.ReLU, torch.nn.SiLU, Tanh


@pytest.fixture
def build(request):
    def make(name):
        config = find_recipe(name).config()
        pipeline = builder(find_recipe(name).algorithm)(config)
        request.addfinalizer(pipeline.close)
        return config, pipeline

    return make


def shapes(network):
    return [tuple(parameter.shape) for parameter in network.parameters() if parameter.ndim == 2]


def activations(network):
    return {type(layer) for layer in network.modules() if isinstance(layer, (RELU, SILU, TANH, torch.nn.Tanh))}


def group(pipeline):
    return pipeline.state["optimizer"].param_groups[0]


@pytest.mark.parametrize(
    ("name", "layers", "activation", "optimizer", "lr", "amsgrad", "kind", "gamma", "clip"),
    [
        ("dqn/online", [(32, 4), (32, 32), (2, 32)], SILU, ADAMW, 3e-4, True, "smooth_l1", 0.95, 1.0),
        ("dqn/replay", [(32, 4), (32, 32), (2, 32)], SILU, ADAMW, 3e-4, True, "smooth_l1", 0.95, 1.0),
        ("dqn/target-network", [(128, 4), (128, 128), (2, 128)], RELU, ADAMW, 1e-4, True, "smooth_l1", 0.99, 100.0),
        ("dqn/consecutive", [(128, 4), (128, 128), (2, 128)], RELU, ADAM, 1e-4, False, "smooth_l1", 0.99, None),
        ("dqn/small", [(24, 4), (24, 24), (2, 24)], RELU, ADAM, 2.5e-3, False, "mse", 0.99, None),
    ],
)
def test_dqn_recipes_learn_as_their_sources_do(
    build, name, layers, activation, optimizer, lr, amsgrad, kind, gamma, clip
):
    config, pipeline = build(name)
    network, loss = pipeline.policy[0].network, pipeline.state["loss"]
    assert shapes(network) == layers
    assert activations(network) == {activation}
    assert not any(isinstance(layer, torch.nn.LayerNorm) for layer in network.modules())
    assert type(pipeline.state["optimizer"]) is optimizer
    assert (group(pipeline)["lr"], group(pipeline)["amsgrad"], group(pipeline)["eps"]) == (lr, amsgrad, 1e-8)
    assert "schedule" not in pipeline.state
    assert (loss.kind, loss.double, loss.target_network is not None) == (kind, False, name == "dqn/target-network")
    assert (config.gamma, config.n_steps, config.max_grad_value, config.max_grad_norm) == (gamma, 1, clip, None)


@pytest.mark.parametrize(
    ("name", "frames_an_update", "minibatch", "buffer", "episodes"),
    [
        ("dqn/replay", 32, 128, 1_280, None),
        ("dqn/target-network", 1, 128, 10_000, 600),
        ("dqn/consecutive", 1, 32, 10_000, 500),
        ("dqn/small", 4, 64, 2_000, 4_000),
    ],
)
def test_dqn_recipes_replay_as_their_sources_do(build, name, frames_an_update, minibatch, buffer, episodes):
    config, pipeline = build(name)
    assert config.num_envs * config.rollout_steps == frames_an_update * config.updates
    replay = pipeline.state["replay"].buffer
    assert (replay.batch_size, replay.storage.max_size, config.total_episodes) == (minibatch, buffer, episodes)


def epsilons(pipeline, *moments):
    schedule = pipeline.policy[1].schedule
    return [pytest.approx(schedule(frames, episodes), rel=1e-3) for frames, episodes in moments]


def test_exploration_follows_the_sources(build):
    assert epsilons(build("dqn/target-network")[1], (0, 0), (1000, 9), (100_000, 9)) == [0.9, 0.36270, 0.05]
    assert epsilons(build("dqn/online")[1], (0, 0), (320_000, 9), (640_000, 9)) == [1.0, 0.5, 0.0]
    assert epsilons(build("dqn/replay")[1], (0, 0), (80_000, 9), (160_000, 9)) == [1.0, 0.5, 0.0]
    assert epsilons(build("dqn/consecutive")[1], (9, 0), (9, 1), (9, 4)) == [0.5, 0.25, 0.1]
    assert epsilons(build("dqn/small")[1], (9, 0), (9, 1), (9, 10**6)) == [1.0, 0.9995, 0.001]
    for name in ("q-learning/maze", "sarsa/maze"):
        assert epsilons(build(name)[1], (9, 0), (9, 1), (9, 3)) == [0.5, 0.25, 0.0625]
    assert epsilons(build("q-learning/cartpole-bins")[1], (9, 0), (9, 1), (9, 4)) == [0.5, 0.25, 0.1]


def test_online_and_replay_do_five_thousand_updates(build):
    online, pipeline = build("dqn/online")
    assert (online.num_envs * online.rollout_steps, online.total_frames) == (128, 5000 * 128)
    assert "replay" not in pipeline.state
    assert torch.equal(pipeline.policy[0].network[0].scale, torch.tensor([0.5, 1.0, 0.21, 0.5]))
    replay, _ = build("dqn/replay")
    assert (replay.total_frames - replay.warmup_frames) // 32 + 1 == 5000


def test_shaped_recipes_are_shaped_and_stop_as_their_sources_do():
    def fields(name, *names):
        return tuple(getattr(find_recipe(name).config(), each) for each in names)

    shaping = ("reward_shaping", "shaping_steps")
    assert fields("dqn/online", *shaping)[0] == fields("dqn/replay", *shaping)[0] == "balance"
    assert fields("dqn/consecutive", *shaping, "max_episode_steps") == ("outcome", 195, 200)
    assert fields("dqn/small", *shaping) == ("fall", 499)
    assert fields("q-learning/cartpole-bins", *shaping) == ("outcome", 150)
    streak = ("stop_after_successes", "success_return", "total_episodes")
    assert fields("dqn/consecutive", *streak) == (10, 195.0, 500)
    assert fields("q-learning/cartpole-bins", *streak) == (10, 150.0, 1_000)
    assert fields("dqn/small", "stop_at_mean", "stop_window") == (450.0, 10)


def test_episodic_reinforce(build):
    config, pipeline = build("reinforce/episodic")
    assert shapes(pipeline.policy) == [(128, 4), (2, 128)]
    assert (group(pipeline)["lr"], type(pipeline.state["optimizer"])) == (1e-4, ADAM)
    loss = pipeline.state["loss"]
    assert (loss.normalize, loss.critic, loss.entropy_coefficient) == ("episode", None, 0.0)
    assert (config.gamma, config.update_each_episode, config.total_episodes) == (0.9, True, 3_000)


def test_eight_workers(build):
    config, pipeline = build("a2c/eight-workers")
    assert config.env_id == "CartPole-v0"
    assert len({process.pid for process in pipeline.collector.env.base_env.envs.processes}) == 8
    assert (config.num_envs, config.rollout_steps) == (8, 8)
    loss = pipeline.state["loss"]
    assert shapes(loss.actor) == [(256, 4), (2, 256)]
    assert shapes(loss.critic) == [(256, 4), (1, 256)]
    assert activations(loss) == {RELU}
    assert all(not bias.any() for bias in loss.parameters() if bias.ndim == 1)
    assert (loss.value_coefficient, loss.entropy_coefficient, loss.normalize_advantage) == (0.5, 0.01, False)
    assert (config.gamma, config.lmbda, group(pipeline)["lr"]) == (0.99, 1.0, 1e-3)
    # 20 000 vector steps; the rate falls every 2000 of them, the policy is judged every 100
    assert config.total_frames == 20_000 * 8
    schedule = pipeline.state["schedule"]
    assert (schedule.gamma, schedule.step_size * 8) == (0.92, 2_000)
    assert (config.eval_every, config.eval_episodes, config.eval_stochastic) == (100 * 8, 2, True)


def test_inverted_double_pendulum(build):
    pytest.importorskip("mujoco")
    config, pipeline = build("ppo/inverted-double-pendulum")
    loss = pipeline.state["loss"]
    assert shapes(loss.critic) == [(256, 9), (256, 256), (256, 256), (1, 256)]
    assert shapes(loss.actor) == [(256, 9), (256, 256), (256, 256), (2, 256)]
    assert activations(loss) == {TANH}
    assert (loss.clip, loss.entropy_coefficient, loss.value_coefficient, loss.value_kind) == (
        0.2,
        1e-4,
        1.0,
        "smooth_l1",
    )
    assert (config.gamma, config.lmbda, config.max_grad_norm) == (0.99, 0.95, 1.0)
    assert (config.num_envs * config.rollout_steps, config.epochs, config.minibatch_size) == (1_000, 10, 64)
    assert (config.total_frames, group(pipeline)["lr"], config.lr_schedule) == (50_000, 3e-4, "cosine")
    assert "observation_norm" in pipeline.state


def test_maze_recipes():
    for name in ("q-learning/maze", "sarsa/maze"):
        config = find_recipe(name).config()
        assert (config.step_size, config.gamma, config.stop_at_change, config.total_episodes) == (0.1, 0.9, 1e-5, 100)
        assert (config.num_envs, config.rollout_steps) == (1, 1)
    config = find_recipe("policy-gradient/maze").config()
    assert (config.step_size, config.beta, config.stop_at_change) == (0.1, 1.0, 1e-4)


def test_cartpole_bins(build):
    config, pipeline = build("q-learning/cartpole-bins")
    assert pipeline.policy[0].network.values.shape == (6**4, 2)
    assert (config.env_id, config.step_size, config.gamma, config.gif) == ("CartPole-v0", 0.5, 0.99, True)
    assert config.bin_high == (2.4, 3.0, 0.418, 2.0) == tuple(-limit for limit in config.bin_low)


def test_mountain_car(build):
    config, pipeline = build("td3/mountain-car")
    assert (config.env_id, config.total_frames, group(pipeline)["lr"]) == ("MountainCarContinuous-v0", 20_000, 1e-3)
    assert shapes(pipeline.policy[0]) == [(64, 2), (64, 64), (1, 64)]
    # from the first frame on
    assert [type(each).__name__ for each in pipeline.policy] == ["DeterministicActor", "OrnsteinUhlenbeck"]
    assert pipeline.policy[1].theta == 1 / 20
