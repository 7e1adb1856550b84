"""Evaluations, films, checks and whole runs leave modes, counters, generators and settings unchanged."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Categorical
from torchrl.envs.utils import exploration_type

from rlpipe.errors import TrainingError
from rlpipe.modules import QActor
from rlpipe.pipelines.agents.load import trained
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.envs.rendering import check_drawable, metadata
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.render.player import Player, record
from rlpipe.pipelines.runs.journal import read_lines
from rlpipe.pipelines.seeding import GlobalRandom

CARTPOLE = EnvConfig("CartPole-v1")


class Noisy(gym.Env):
    """Draws from the process's generators, when it is made too, and sets what is PyTorch's."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode=None, fails_at=None):
        self.render_mode, self.fails_at, self.steps = render_mode, fails_at, 0
        self.draw()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True)

    def draw(self):
        self.place = float(np.clip(np.random.normal() + random.gauss(0, 1) + torch.randn(()).item(), -9, 9))  # noqa: NPY002
        return np.array([self.place], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("broken")
        reward = float((self.place > 0) == bool(action))
        return self.draw(), reward, bool(self.steps % 7 == 0), False, {}

    def render(self):
        return np.zeros((40, 40, 3), np.uint8)


class Failing(Noisy):
    def __init__(self, render_mode=None):
        super().__init__(render_mode, fails_at=5)


class Global(Noisy):
    """The same, without settings."""

    def __init__(self, render_mode=None):
        self.render_mode, self.fails_at, self.steps = render_mode, None, 0
        self.draw()


def situation():
    settings = torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    return repr((GlobalRandom().state_dict(), settings, exploration_type(), torch.is_grad_enabled()))


def make_policy():
    network = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2))
    return QActor(network, Categorical(2))


def _fail(policy, folder):
    with pytest.raises(TrainingError, match="broken"):
        evaluate(policy, EnvConfig(Failing), episodes=3, seed=0)


@pytest.fixture
def settings():
    before = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "do",
    [
        lambda policy, _: evaluate(policy, EnvConfig(Noisy), episodes=3, seed=0),
        lambda policy, _: evaluate(policy, EnvConfig(Noisy), episodes=3, seed=0, stochastic=True),
        lambda policy, folder: record(Player(EnvConfig(Noisy), policy, 0), folder / "film.gif"),
        lambda _, folder: record(Player(EnvConfig(Noisy), None, 0), folder / "film.gif"),
        lambda *_: check_drawable(EnvConfig(Noisy)),
        lambda *_: metadata(EnvConfig(Noisy)),
        _fail,
    ],
)
def test_the_process_is_as_it_was(do, tmp_path):
    policy = make_policy()
    before = situation()
    do(policy, tmp_path)
    assert situation() == before


def test_draws_within_an_evaluation_follow_from_its_seed():
    # weights of which the choices depend on what is observed
    torch.manual_seed(1)
    policy, results = make_policy(), []
    for seed in (1, 1, 2):
        GlobalRandom().seed(len(results))
        results.append(evaluate(policy, EnvConfig(Global), episodes=3, seed=seed))
    assert results[0] == results[1] != results[2]


class Counting(nn.Module):
    """Counts what it is shown, in each of the ways that there are, in whatever mode."""

    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)
        self.plain, self.number, self.state = torch.zeros(2), 0, None
        self.numpy, self.python = np.random.default_rng(0), random.Random(0)
        self.torch, self.generator = torch.Generator(), torch.Generator()

    def forward(self, observation):
        self.calls += 1
        self.unsaved[0] += 1
        self.plain = self.plain + 1
        self.number += 1
        self.state = observation.mean(0)
        self.late = observation
        drawn = self.numpy.normal() + self.python.gauss(0, 1)
        drawn += sum(torch.randn((), generator=each).item() for each in (self.torch, self.generator))
        return (observation.sum(-1) + drawn > 0).long()


def described(module):
    generators = [module.torch.get_state(), module.generator.get_state(), module.numpy.bit_generator.state]
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return repr((plain, module.state_dict(), module.unsaved, generators, module.python.getstate()))


def test_counters_buffers_and_generators_of_a_policy_are_as_they_were():
    module = Counting()
    policy = TensorDictModule(module, in_keys=["observation"], out_keys=["action"])
    before, results = described(module), []
    for _ in range(2):
        results.append(evaluate(policy, CARTPOLE, episodes=4, seed=3))
        assert described(module) == before
        module.numpy.normal()
        before = described(module)
    Player(EnvConfig("CartPole-v1"), policy, 3).play(lambda _: True)
    assert described(module) == before
    # drawn from the evaluation's seed, not from where training is
    assert results[0] == results[1]


@pytest.mark.parametrize("whole", [True, False])
def test_each_part_keeps_its_mode(whole):
    policy = make_policy().train(whole)
    policy.network[1].train(not whole)
    before = [module.training for module in policy.modules()]
    evaluate(policy, EnvConfig(Global), episodes=2, seed=0)
    assert [module.training for module in policy.modules()] == before
    Player(EnvConfig(Global), policy, 0).play(lambda _: True)
    assert [module.training for module in policy.modules()] == before


def test_a_module_that_changes_with_its_mode_is_told_of_it():
    class Merging(nn.Linear):
        merged = False

        def train(self, mode=True):
            super().train(mode)
            self.merged = not mode
            return self

    policy = QActor(nn.Sequential(Merging(4, 2)), Categorical(2))
    evaluate(policy, CARTPOLE, episodes=1, seed=0)
    assert not policy.network[0].merged


def test_an_evaluation_within_an_evaluation():
    policy = make_policy()

    def judge(observation):
        seen.append(evaluate(policy, EnvConfig(Global), episodes=2, seed=1))
        return torch.randint(2, observation.shape[:1])

    seen, before = [], situation()
    outer = TensorDictModule(judge, in_keys=["observation"], out_keys=["action"])
    results = [evaluate(outer, EnvConfig(Global), episodes=1, seed=seed) for seed in (5, 5)]
    assert results[0] == results[1]
    assert all(each == seen[0] for each in seen)
    assert situation() == before


@pytest.mark.parametrize("recipe", ["ppo", "dqn"])
def test_training_is_the_same_however_often_it_is_evaluated(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(gym.registry, "Global-v0", EnvSpec("Global-v0", entry_point=Global))
    monkeypatch.chdir(tmp_path)
    runs = []
    for number, eval_every in enumerate((512, 512, 10**6)):
        GlobalRandom().seed(number)
        summary = run_recipe(
            recipe,
            env_id="Global-v0",
            folder=f"run{number}",
            total_frames=2048,
            eval_every=eval_every,
            eval_episodes=2,
            final_eval_episodes=2,
            checkpoint_every=None,
            gif=number == 2,
            loggers=None,
        )
        rows = read_lines(tmp_path / f"run{number}" / "metrics.jsonl")
        timed = ("seconds", "frames_per_second")
        metrics = [{name: value for name, value in row.items() if name not in timed} for row in rows]
        runs.append((metrics, summary["evaluation"]))
    assert runs[0] == runs[1] == runs[2]


def test_a_run_leaves_the_generators_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = {"total_frames": 512, "final_eval_episodes": 1, "loggers": None, "num_envs": 4, "rollout_steps": 32}
    summaries = []
    for number in range(2):
        GlobalRandom().seed(number)
        before = situation()
        summaries.append(run_recipe("ppo", folder=f"run{number}", **quick))
        assert situation() == before
        with trained(summaries[-1]["run"]) as agent:
            assert situation() == before
            evaluate(agent.policy, CARTPOLE, episodes=1, seed=0)
        assert situation() == before
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]
    with pytest.raises(TrainingError):
        run_recipe("ppo", lr=1e30, folder="broken", **quick)
    assert situation() == before
