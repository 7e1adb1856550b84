"""No two environments share a random stream: in a run, in runs of other seeds, in training and evaluation."""

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.envs import make_env
from rlpipe.pipelines.seeding import Seeds
from rlpipe.scripts.main import run

SEEDS = range(3)
RESETS = 100
# where resets are drawn in one process for all environments, in one for each in turn, and in a process each
KINDS = [("CartPole-v1", "auto"), ("Acrobot-v1", "auto"), ("CartPole-v1", "async")]
OTHERS = ["normalization", "evaluation", "final evaluation", "gif"]
NAMES = ["environments", "initialization", "exploration", "ties", "replay", "process", *OTHERS]


class Noted(gym.Env):
    """Every episode is one step; what each environment was ever reset to is kept. Its picture is black."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space = Box(0.0, 1.0, (3,), np.float32)
    action_space = Discrete(2)
    made = []

    def __init__(self, render_mode=None):
        self.render_mode, self.resets, self.seeds = render_mode, [], []
        self.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds += [] if seed is None else [seed]
        self.resets.append(self.np_random.random(3, np.float32))
        return self.resets[-1], {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, True, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


gym.register("tests/Noted-v0", Noted, max_episode_steps=5)


def common(streams):
    """Pairs of streams, by their names, that have a row in common; a name twice, where a stream repeats itself."""
    owner, pairs = {}, set()
    for name, rows in streams.items():
        for row in np.asarray(rows):
            if row.tobytes() in owner:
                pairs.add((owner[row.tobytes()], name))
            owner.setdefault(row.tobytes(), name)
    return sorted(pairs)


def resets(env):
    """What each environment is reset to, `[num_envs, 200, ...]`: a hundred times at an episode's end, then on demand.

    Every episode has to end after one step.
    """
    base, every = env.base_env, np.ones(env.batch_size[0], bool)
    roots = [base.restart()["observation"]]
    while len(roots) < RESETS:
        assert base.advance(np.zeros(len(every), np.int64))["done"].all()
        roots.append(base.root["observation"])
    roots += [base.restart(every if count % 2 else None)["observation"] for count in range(RESETS)]
    return np.stack(roots, axis=1)


def make(env_id, backend, seed, stream="environments"):
    """Four environments, as the pipeline's builder makes them, or as an evaluation does."""
    config, seeds = ppo.Config(env_id=env_id, backend=backend, num_envs=4, max_episode_steps=1, seed=seed), Seeds(seed)
    if stream == "environments":
        return make_training_env(config, seeds)
    return make_env(replace(config.eval_env, backend="auto"), seed=seeds.integer(stream))


def streams_of(env_id, backend, seed, stream="environments"):
    env = make(env_id, backend, seed, stream)
    rows = resets(env)
    env.close()
    assert rows.shape[:2] == (4, 2 * RESETS)
    return {(seed, stream, index): row for index, row in enumerate(rows)}


@pytest.fixture(scope="module")
def training():
    """The streams of the training environments of each kind, in runs of each seed."""
    return {kind: {name: rows for seed in SEEDS for name, rows in streams_of(*kind, seed).items()} for kind in KINDS}


def test_a_stream_in_common_is_found():
    first = np.arange(12.0).reshape(4, 3)
    assert common({"a": first, "b": first + 100.0}) == []
    assert common({"a": first, "b": first + 100.0, "c": np.roll(first, 2, 0)[:1] + 100.0}) == [("b", "c")]
    assert common({"a": np.concatenate([first, first])}) == [("a", "a")]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_environments_of_one_run_and_of_others_share_no_stream(kind, training):
    assert len(training[kind]) == 12
    assert common(training[kind]) == []


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_seed_makes_all_of_its_streams_again(kind, training):
    for name, rows in streams_of(*kind, 1).items():
        np.testing.assert_array_equal(rows, training[kind][name])


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_evaluation_and_the_rest_share_no_stream_with_training(kind, training):
    streams = dict(training[kind])
    for seed in SEEDS:
        for name in OTHERS:
            streams |= streams_of(*kind, seed, name)
    assert len(streams) == 12 * (1 + len(OTHERS))
    assert common(streams) == []


def test_no_two_environments_of_whole_runs_share_a_stream(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Noted, "made", made)
    options = ["--env-id", "tests/Noted-v0", "--num-envs", "2", "--rollout-steps", "50", "--minibatch-size", "50"]
    # one evaluation in training only: the next would see the same episodes, so that they can be compared
    options += ["--total-frames", "200", "--epochs", "1", "--eval-every", "200", "--eval-episodes", "3"]
    options += ["--final-eval-episodes", "3", "--normalize-observation", "--gif", "--quiet"]
    for seed in SEEDS:
        assert run(["train", "ppo", *options, "--seed", str(seed), "--run-dir", str(tmp_path / str(seed))]) == 0
    # the others were only drawn, to see whether it can be done
    used = [each for each in made if each.seeds]
    lengths = [len(each.resets) for each in used]
    # a run: 2 to train in, 1 and (once those are closed) 2 to evaluate in, 1 to draw
    assert len(used) == 3 * (2 + 1 + 2 + 1)
    assert sum(length > RESETS for length in lengths) == 3 * 2
    assert len({each.seeds[0] for each in used}) == len(used)
    assert common(dict(enumerate(each.resets for each in used))) == []


def test_no_two_named_streams_are_one():
    def draws(seed, name):
        return torch.randint(2**62, (RESETS, 1), generator=Seeds(seed).generator(name)).numpy()

    assert common({(seed, name): draws(seed, name) for seed in SEEDS for name in NAMES}) == []


def test_these_are_all_names_of_streams():
    assert sorted(re.findall("`([a-z ]+)`", Seeds.__doc__)) == sorted(NAMES)


def test_a_seed_block_is_of_its_name_and_its_seed():
    drawn = {}
    for seed in SEEDS:
        for name in NAMES:
            with Seeds(seed).torch_seeded(name):
                drawn[seed, name] = torch.randint(2**62, (RESETS, 1)).numpy()
    assert common(drawn) == []
