"""Learning from Atari games: lives that end episodes for learning alone, resuming, and the recipes' figures."""

import dataclasses
import json

import pytest
import torch
from resuming import Whole, go, killed, text
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import find_recipe
from rlpipe.pipelines.build.environment import make_lives
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.training.finished_episodes import finished_episodes

SMALL = {"env_id": "ALE/Breakout-v5", "num_envs": 2, "rollout_steps": 8, "hidden": (8,), "minibatch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def ale():
    """ALE, or no tests."""
    return pytest.importorskip("ale_py", reason='needs ALE: pip install "rlpipe[atari]"')


def test_a_lost_life_ends_an_episode_for_learning_alone():
    env = make_env(EnvConfig(SMALL["env_id"]), seed=0)
    before, after = [5, 5, 4, 4, 1, 0], [5, 4, 4, 3, 0, 0]
    # some games go on for a while with no life left
    ends = torch.tensor([[0, 0, 0, 0, 0, 1]], dtype=torch.bool).unsqueeze(-1)
    flags = {"terminated": ends, "truncated": torch.zeros_like(ends), "done": ends}
    then = TensorDict({"lives": torch.tensor([after]), **flags}, [1, 6])
    batch = TensorDict({"lives": torch.tensor([before]), "next": then}, [1, 6])
    learned = make_lives(ppo.Config(**SMALL, end_at_life_loss=True), env)(batch)
    for key in ("terminated", "done"):
        assert learned["next", key].flatten().tolist() == [False, True, False, True, False, True]
    assert batch["next", "done"].flatten().tolist() == [False] * 5 + [True]
    assert make_lives(ppo.Config(**SMALL), env)(batch) is batch
    env.close()


@pytest.mark.parametrize("module", [ppo, dqn])
def test_lives_are_refused_where_there_are_none(module):
    needed = "end_at_life_loss is True, which needs an environment that counts lives"
    for changes, why in (({"env_id": "CartPole-v1"}, "does not"), ({"from_pixels": True}, "is seen from pixels")):
        options = {**SMALL, "end_at_life_loss": True, **changes}
        with pytest.raises(ConfigError, match=f"^{needed}, .*; this one {why}.*; --no-end-at-life-loss leaves it out$"):
            module.build(module.Config(**options))


def test_returns_are_those_of_whole_games_while_lives_end_what_is_learned():
    options = {**SMALL, "num_envs": 4, "rollout_steps": 100, "seed": 4}
    pipeline = ppo.build(ppo.Config(**options, end_at_life_loss=True, reward_shaping="clip"))
    earned, returns, lost = torch.zeros(4), [], 0
    for _, batch in zip(range(3), pipeline.collector, strict=False):
        after = batch["next"]
        lost += int((after["lives"] < batch["lives"]).sum())
        returns += finished_episodes(batch)[0]
        assert set(after["reward"].unique().tolist()) <= {0.0, 1.0}
        earned += after["reward"].sum((1, 2))
    assert returns
    assert lost > 3 * len(returns)
    running = pipeline.collector.env.base_env.root["episode_reward"]
    # bricks of the lowest rows are worth one point each
    assert sum(returns) + running.sum() == earned.sum()
    pipeline.close()


def test_an_evaluation_is_of_whole_games_and_their_own_rewards():
    options = {**SMALL, "env_id": "ALE/MsPacman-v5", "end_at_life_loss": True, "reward_shaping": "clip"}
    config = ppo.Config(**options)
    pipeline = ppo.build(config)
    policy = TensorDictModule(lambda seen: torch.full(seen.shape[:1], 3), ["observation"], ["action"])
    seen = evaluate(policy, config.eval_env, episodes=1, seed=2, transforms=pipeline.transforms)
    pipeline.close()
    env = make_env(EnvConfig(options["env_id"]), seed=2)
    game = env.rollout(2_000, policy)[0]
    env.close()
    reward, lives = game["next", "reward"], game["next", "lives"]
    assert game["next", "done"][-1].item()
    assert (game["lives"][0].item(), len(lives.unique())) == (3, 4)
    # a pill is worth 10 points
    assert seen.returns == (reward.sum().item(),) > ((reward > 0).sum().item(),)
    assert seen.lengths == (len(reward),)


@pytest.mark.parametrize("storage", ["transitions", "frames"])
def test_dqn_stores_lost_lives_as_ends(storage):
    frames = {
        "updates": 1,
        "buffer_size": 2_000,
        "warmup_frames": 1_900,
        "n_steps": 1,
        "rollout_steps": 100,
        "replay_storage": storage,
    }
    pipeline = dqn.build(dqn.Config(**{**SMALL, **frames}, end_at_life_loss=True))
    lost = ends = 0
    for _, batch in zip(range(2), pipeline.collector, strict=False):
        lost += int((batch["next", "lives"] < batch["lives"]).sum())
        ends += int(batch["next", "done"].sum())
        pipeline.learn(batch)
    held = pipeline.state["replay"].buffer.storage[:]
    assert lost > ends
    assert int((held["next", "discount"] == 0).sum()) == lost
    assert pipeline.policy[1].episodes == ends
    pipeline.close()


@pytest.mark.parametrize("kill", [("collect", 5)])
def test_a_killed_run_goes_on_to_the_bit(tmp_path_factory, tmp_path, kill):
    options = {**SMALL, "epochs": 1, "max_episode_steps": 20, "eval_every": 64, "eval_episodes": 1}
    config = ppo.Config(**options, total_frames=96, checkpoint_every=32, end_at_life_loss=True)
    whole = Whole(tmp_path_factory)("ppo", config)
    killed(tmp_path / "run", "ppo", config, *kill)
    go(tmp_path / "run", "ppo", config)
    for journal in ("metrics", "evaluations"):
        lines = [text(folder, journal) for folder in (whole, tmp_path / "run")]
        assert _without_times(lines[0]) == _without_times(lines[1])


def _without_times(lines):
    return [
        {key: value for key, value in json.loads(line).items() if "second" not in key} for line in lines.splitlines()
    ]


def test_the_recipes_have_their_papers_figures():
    """Mnih et al. 2015, Extended Data Table 1; Schulman et al. 2017, Table 5."""
    config = find_recipe("dqn/atari").config()
    assert (config.minibatch_size, config.buffer_size, config.target_every, config.tau) == (32, 1_000_000, 10_000, 1.0)
    assert config.num_envs * config.rollout_steps == 4 * config.updates
    assert (config.warmup_frames, config.gamma, config.n_steps, config.double) == (50_000, 0.99, 1, False)
    assert (config.epsilon_start, config.epsilon_end, config.epsilon_frames) == (1.0, 0.1, 1_000_000)
    # a million transitions whole would take 56 GB
    assert config.replay_storage == "frames"
    assert (config.lr, config.adam_eps, config.kind) == (6.25e-5, 1.5e-4, "smooth_l1")
    config = find_recipe("ppo/atari").config()
    assert (config.num_envs, config.rollout_steps, config.epochs, config.minibatch_size) == (8, 128, 3, 256)
    assert (config.lr, config.lr_schedule, config.gamma, config.lmbda) == (2.5e-4, "linear", 0.99, 0.95)
    assert (config.clip, config.value_coefficient, config.entropy_coefficient) == (0.1, 1.0, 0.01)
    assert (config.shared_trunk, config.initialization, config.total_frames) == (True, "orthogonal", 10_000_000)
    for name in ("dqn/atari", "ppo/atari"):
        config = find_recipe(name).config()
        assert (config.hidden, config.reward_shaping, config.end_at_life_loss) == ((512,), "clip", True)
        assert dataclasses.asdict(config.eval_env)["env_id"] == "ALE/Pong-v5"
