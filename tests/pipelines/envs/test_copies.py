"""Simulators of which few copies can run: how many are open at once, and that fewer give the same evaluation."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from tensordict.nn import TensorDictModule

from rlpipe.errors import ConfigError
from rlpipe.pipelines.agents.export import export
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.collectors.evaluation import MAX_ENVS, evaluate, most_copies
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.front_door import run_recipe


class Simulator(gym.Env):
    """Refuses to be opened more often than `limit` times at once; episodes of random length."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space, action_space = Box(-1.0, 1.0, (2,), np.float32), Discrete(2)
    limit, now, most = 1, 0, 0

    def __init__(self, render_mode=None):
        if Simulator.now >= Simulator.limit:
            raise OSError("Address already in use: port 5005")
        Simulator.now += 1
        Simulator.most = max(Simulator.most, Simulator.now)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(2, 9))
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._left -= 1
        reward = float(self.np_random.normal())
        return np.full(2, self._left / 10, np.float32), reward, self._left == 0, False, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

    def close(self):
        Simulator.now -= 1


gym.register("tests/Simulator-v0", Simulator)
BATCH = {"rollout_steps": 32, "minibatch_size": 32}
SHORT = {"env_id": "tests/Simulator-v0", "total_frames": 128, "loggers": None, **BATCH}


@pytest.fixture(autouse=True)
def nobody_has_it():
    Simulator.limit = Simulator.now = Simulator.most = 0
    yield
    assert Simulator.now == 0


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (1, {"num_envs": 1, "eval_every": None, "normalize_observation": True, "gif": True}),
        (1, {"num_envs": 1, "eval_every": None, "eval_env_id": "tests/Simulator-v0"}),
        (2, {"num_envs": 1, "eval_every": 64}),
        (3, {"num_envs": 2, "eval_every": 64, "rollout_steps": 16}),
        (4, {"num_envs": 1, "eval_every": 64, "eval_envs": 3}),
    ],
)
def test_no_more_copies_than_training_and_an_evaluation_need(tmp_path, limit, options):
    Simulator.limit = limit
    summary = run_recipe("ppo", folder=tmp_path / "run", **{**SHORT, "final_eval_episodes": 6, **options})
    assert Simulator.most == limit
    assert summary["evaluation"]["episodes"] == 6


def test_what_uses_a_run_later_opens_no_more(tmp_path):
    Simulator.limit = 1
    run_recipe("ppo", folder=tmp_path / "run", **SHORT, num_envs=1, eval_every=None, final_eval_episodes=2)
    with trained(tmp_path / "run") as agent:
        assert Simulator.now == 0
        export(agent, "safetensors", tmp_path / "policy.safetensors")
        evaluate(agent.policy, agent.config.eval_env, episodes=3, seed=0)
    assert Simulator.most == 1


@pytest.mark.parametrize("episodes", [7, MAX_ENVS + 7])
@pytest.mark.parametrize("num_envs", [None, 3])
def test_few_environments_play_the_episodes_of_many(episodes, num_envs):
    Simulator.limit = MAX_ENVS
    env_config = EnvConfig("tests/Simulator-v0", max_episode_steps=6)
    policy = TensorDictModule(lambda seen: (seen[:, 0] > 0).long(), in_keys=["observation"], out_keys=["action"])
    many = evaluate(policy, env_config, episodes=episodes, seed=3, num_envs=MAX_ENVS)
    Simulator.most = 0
    few = evaluate(policy, env_config, episodes=episodes, seed=3, num_envs=num_envs)
    assert Simulator.most == (num_envs or 1)
    assert few == many
    assert len(set(many.lengths)) > 2


def test_streams_have_the_seeds_of_a_larger_number():
    Simulator.limit = 12
    many, few = (make_env(EnvConfig("tests/Simulator-v0", count), seed=5) for count in (8, 4))
    many.base_env.restart()
    drawn = many.base_env.advance(np.zeros(8, int))["reward"]
    few.base_env.seeds.offset(4)
    few.base_env.restart()
    assert (few.base_env.advance(np.zeros(4, int))["reward"] == drawn[4:]).all()
    many.close()
    few.close()


def test_how_many_by_default():
    assert most_copies(EnvConfig("CartPole-v1")) == most_copies(EnvConfig("rlpipe/Maze-v0")) == MAX_ENVS
    assert most_copies(EnvConfig("tests/Simulator-v0")) == most_copies(EnvConfig(Simulator)) == 1
    assert most_copies(EnvConfig(Simulator), None, 4) == 4
    with pytest.raises(ConfigError, match="num_envs is 0; allowed is 1 or more"):
        most_copies(EnvConfig("CartPole-v1"), 0)


def test_a_stopping_rule_of_evaluations_needs_them():
    with pytest.raises(ConfigError, match=r"stop_at_return is 5\.0, a return of evaluations during training"):
        run_recipe("ppo", eval_every=None, stop_at_return=5.0)
