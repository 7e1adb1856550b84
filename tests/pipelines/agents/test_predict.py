"""`agent.predict`: one step of a trained agent, as evaluations take it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import CatFrames

from rlpipe.errors import ConfigError
from rlpipe.modules import GaussianActor, OrnsteinUhlenbeck
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.render.player import Player
from tests.helpers import weighted  # noqa: F401 - registers its environments

SHORT = {"total_frames": 64, "num_envs": 2, "hidden": (8,), "rollout_steps": 32, "final_eval_episodes": 1}
PPO = {**SHORT, "minibatch_size": 32}
DQN = {**SHORT, "minibatch_size": 8, "warmup_frames": 32, "buffer_size": 1_000}
LSTM, GRU = ({"recurrent": kind, "recurrent_size": 6} for kind in ("lstm", "gru"))
KINDS = {
    "gru": ("ppo", {**PPO, **GRU, "env_id": "tests/WeightedDiscrete-v0"}),
    "lstm": ("ppo", {**PPO, **LSTM, "env_id": "tests/WeightedDiscrete-v0"}),
    "box": ("ppo", {**PPO, **GRU, "env_id": "tests/WeightedBox-v0", "normalize_observation": True}),
    "positions": ("ppo", {**PPO, **GRU, "env_id": "rlpipe/CartPolePositions-v0"}),
    "nested": ("ppo", {**PPO, **LSTM, "env_id": "tests/WeightedNested-v0"}),
    "plain": ("ppo", {**PPO, "env_id": "tests/WeightedNested-v0"}),
    "masked": ("dqn", {**DQN, "env_id": "tests/WeightedMasked-v0"}),
    "dqn": ("dqn", {**DQN, "env_id": "tests/WeightedDiscrete-v0"}),
    "bins": ("q-learning/cartpole-bins", {"total_frames": 64, "num_envs": 2, "final_eval_episodes": 1}),
}
SEED, EPISODES = 11, 3

# what Gymnasium says to a number for a Box of no dimensions, which its vector environments give
pytestmark = pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function that trains a kind of run once, and gives its folder."""
    made = {}

    def folder(kind):
        if kind not in made:
            recipe, options = KINDS[kind]
            made[kind] = tmp_path_factory.mktemp(kind) / "run"
            run_recipe(recipe, folder=made[kind], loggers=(), **options)
        return made[kind]

    return folder


def played(agent, *, forget=False):
    """The return of the first episode in each of `EPISODES` environments, by `predict` of a batch."""
    env = make_env(replace(agent.settings.eval_env, num_envs=EPISODES), seed=SEED)
    envs, state, total = env.base_env.envs, None, np.zeros(EPISODES)
    observation, _ = envs.reset(seed=env.base_env.seeds.take())
    done, over = np.zeros(EPISODES, bool), np.zeros(EPISODES, bool)
    while not over.all():
        action, state = agent.predict(observation, None if forget else state, episode_start=done)
        observation, reward, terminated, truncated, _ = envs.step(action)
        done = terminated | truncated
        total += reward * ~over
        over |= done
    env.close()
    return total


def played_singly(agent):
    """The return of an episode of one environment, by `predict` of each observation."""
    env, seeds = gym.make(agent.settings.eval_env.env_id), make_env(agent.settings.eval_env, seed=SEED)
    observation, _ = env.reset(seed=seeds.base_env.seeds.take()[0])
    seeds.close()
    total, state, done = 0.0, None, False
    while not done:
        action, state = agent.predict(observation, state)
        assert env.action_space.contains(action)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    env.close()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_as_evaluations_do(runs, kind):
    with trained(runs(kind)) as agent:
        config = agent.settings.eval_env
        if kind in ("gru", "lstm"):
            # a new policy has almost the same preference everywhere
            torch._foreach_mul_([each.detach() for each in agent.policy.parameters() if each.ndim > 1], 10.0)
        expected = evaluate(agent.policy, config, episodes=EPISODES, seed=SEED, transforms=agent.transforms)
        np.testing.assert_allclose(played(agent), expected.returns, rtol=1e-6, atol=1e-6)
        if config.env_id.startswith("tests/"):
            np.testing.assert_allclose(played_singly(agent), expected.returns[0], rtol=1e-6, atol=1e-6)
        if kind in ("gru", "lstm", "box", "nested"):
            assert not np.allclose(played(agent, forget=True), expected.returns, atol=1e-3)


@pytest.mark.parametrize("kind", ["gru", "box"])
@pytest.mark.parametrize("stochastic", [False, True])
def test_every_evaluation_and_the_player_begin_blank_and_remember(runs, kind, stochastic):
    with trained(runs(kind)) as agent:
        config, given = agent.settings.eval_env, {"seed": SEED, "transforms": agent.transforms}
        given["stochastic"] = stochastic
        at_once = evaluate(agent.policy, config, episodes=4, num_envs=4, **given)
        in_turn = evaluate(agent.policy, config, episodes=4, num_envs=2, **given)
        alone = evaluate(agent.policy, config, episodes=1, **given)
        films = Player(config, agent.policy, **given).play(lambda _: True)
        if not stochastic:
            np.testing.assert_allclose(in_turn.returns, at_once.returns, rtol=1e-6)
        assert [each.earned for each in films] == list(alone.returns)


@pytest.mark.parametrize("kind", ["lstm", "masked"])
def test_samples_are_the_agents_own(runs, kind):
    drawn, before = [], torch.get_rng_state()
    for _ in range(2):
        with trained(runs(kind)) as agent:
            if kind == "masked":
                observation = {"seen": np.zeros(2, np.float32), "action_mask": np.array([0, 1, 1, 0], np.int8)}
            else:
                observation = np.zeros(3, np.float32)
            of_training = agent.pipeline.state["random"].state_dict()
            drawn.append([int(agent.predict(observation, deterministic=False)[0]) for _ in range(40)])
            after = agent.pipeline.state["random"].state_dict()
            assert all(torch.equal(of_training[name], after[name]) for name in after)
            greedy = {int(agent.predict(observation)[0]) for _ in range(5)}
    assert drawn[0] == drawn[1]
    assert len(greedy) == 1
    assert len(set(drawn[0])) > 1
    assert kind != "masked" or set(drawn[0]) == {1, 2}
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_state_is_not_used_where_an_episode_begins(runs, kind):
    with trained(runs(kind)) as agent:
        observation = np.ones((2, 3), np.float32)
        _, state = agent.predict(observation)
        _, again = agent.predict(observation, state, episode_start=[True, False])
        _, one = agent.predict(observation[0], tuple(each[0] for each in state), episode_start=True)
    for before, after, single in zip(state, again, one, strict=True):
        np.testing.assert_allclose(after[0], before[0], rtol=1e-6)
        np.testing.assert_allclose(single, before[0], rtol=1e-6)
        assert not np.allclose(after[1], before[1], rtol=1e-3)


def test_any_policy_can_predict(runs):
    with trained(runs("box")) as agent:
        torch.manual_seed(0)
        features = TensorDictModule(nn.Sequential(nn.Flatten(), nn.Linear(4, 8)), ["observation"], ["features"])
        actor = GaussianActor(nn.Linear(8, 2), agent.environment.action_spec, in_keys=["features"])
        agent.pipeline.policy = TensorDictSequential(features, actor)
        given = {"seed": SEED, "transforms": agent.transforms}
        expected = evaluate(agent.policy, agent.settings.eval_env, episodes=EPISODES, **given)
        np.testing.assert_allclose(played(agent), expected.returns, rtol=1e-5)


def test_the_environment_is_opened_if_the_collector_shows_none(runs):
    with trained(runs("masked")) as agent:
        hidden = replace(agent, opened=None)
        assert hidden.environment.spaces == agent.environment.spaces
        assert hidden.environment is not agent.environment


def test_a_transform_of_several_steps_is_refused(runs):
    with trained(runs("dqn")) as agent:
        agent.pipeline.transforms = [CatFrames(2, -1, ["observation"])]
        with pytest.raises(ConfigError, match="the transform CatFrames of the observation may span several steps"):
            agent.predict(np.zeros(3, np.float32))


def test_lasting_noise_begins_with_an_episode(runs):
    with trained(runs("box")) as agent:
        noise = OrnsteinUhlenbeck(agent.environment.action_spec, 0.3)
        agent.pipeline.policy = TensorDictSequential(*agent.policy, noise)
        observation = np.zeros((2, 2))
        _, state = agent.predict(observation, deterministic=False)
        agent.predict(observation, state, False, False)
        assert noise.carried.shape == (1, 2)
        scale = noise.carried.abs().max()
        noise.carried = torch.full((1, 2), 9.0)
        agent.predict(observation, state, True, False)
        assert noise.carried.abs().max() < 1 + scale


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("gru", (np.zeros(4, np.float32),), r"key 'observation' has shape \[4\], expected \[3\], or a batch"),
        ("gru", (np.zeros((2, 4), np.float32),), r"key 'observation' has shape \[2, 4\], expected \[2, 3\]$"),
        ("gru", (np.zeros(3, np.complex64),), "key 'observation' has dtype complex64, expected float32"),
        ("gru", (np.array([0, np.nan, 0]),), "key 'observation' has NaN or infinite numbers"),
        ("gru", ((np.zeros(3), {}),), "a pair, as reset returns it; observation, info = env.reset"),
        ("gru", (None,), "key 'observation' has shape"),
        ("masked", ({"seen": np.zeros(2)},), "the observation has no entry 'action_mask'; it has"),
        ("plain", ({"seen": np.zeros(2), "room": 3, "parts": (np.zeros(2, np.int8),)},), "'room' is 3, expected"),
        ("gru", (np.zeros(3), np.zeros((1, 6))), "state is ndarray, expected a tuple of 1"),
        ("lstm", (np.zeros(3), (np.zeros((1, 6)),)), "state is a tuple of 1, expected a tuple of 2"),
        (
            "gru",
            (np.zeros(3), (np.zeros((2, 1, 6)),)),
            r"state 'recurrent_state' has shape \[2, 1, 6\]",
        ),
        ("dqn", (np.zeros(3), (np.zeros(6),)), "expected None: this policy does not remember"),
        (
            "gru",
            (np.zeros((2, 3)), None, [True] * 3),
            r"episode_start has shape \[3\]",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(runs, kind, given, said):
    with trained(runs(kind)) as agent, pytest.raises(ConfigError, match=said) as caught:
        agent.predict(*given)
    assert "\n" not in str(caught.value)
