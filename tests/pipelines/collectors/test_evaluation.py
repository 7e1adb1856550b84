"""Evaluation: fair to long episodes, greedy or sampled, and without a trace in training."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, CategoricalActor, EpsilonGreedy, Linear, QActor
from rlpipe.pipelines.collectors.evaluation import MAX_EPISODE_STEPS, evaluate
from rlpipe.pipelines.envs import BinObservation, EnvConfig, ShapeReward, make_env
from rlpipe.pipelines.progress import Evaluation

CARTPOLE = EnvConfig("CartPole-v1")


def make_policy(seed=0):
    torch.manual_seed(seed)
    env = make_env(CARTPOLE)
    return CategoricalActor(MLP(4, 2, (8,)), env.action_spec, torch.Generator().manual_seed(1))


def by_step(function):
    """A policy whose action depends on the step of the episode."""
    return TensorDictModule(function, in_keys=["step_count"], out_keys=["action"])


def test_returns_and_lengths():
    policy = by_step(lambda count: torch.zeros(len(count), dtype=torch.int64))
    evaluation = evaluate(policy, EnvConfig("tests/Counter-v0"), episodes=7, seed=0)
    assert evaluation.returns == (6.0,) * 7
    assert evaluation.lengths == (3,) * 7


@pytest.mark.parametrize("episodes", [1, 99, 100, 130])
def test_the_number_of_episodes_is_exact(episodes):
    evaluation = evaluate(make_policy(), CARTPOLE, episodes=episodes, seed=0)
    assert len(evaluation.returns) == len(evaluation.lengths) == episodes


def test_short_episodes_are_no_more_likely_to_be_counted():
    # each environment must give its share, however long its episodes are
    everyone = evaluate(make_policy(), CARTPOLE, episodes=100, seed=0)
    env = make_env(EnvConfig("CartPole-v1", 100), seed=0)
    rollout = env.rollout(200, make_policy(), break_when_any_done=False)
    first = rollout["next", "done"].squeeze(-1).int().argmax(-1)
    assert everyone.lengths == tuple((first + 1).tolist())
    assert len(set(everyone.lengths)) > 3


def test_same_seed_same_episodes():
    first, second = (evaluate(make_policy(), CARTPOLE, episodes=5, seed=3) for _ in range(2))
    assert first == second
    assert first != evaluate(make_policy(), CARTPOLE, episodes=5, seed=4)


def test_stochastic_evaluation_samples_from_its_own_generator():
    policy = make_policy()
    before = policy.generator.get_state()
    greedy = evaluate(policy, CARTPOLE, episodes=20, seed=3)
    sampled, again = (evaluate(policy, CARTPOLE, episodes=20, seed=3, stochastic=True) for _ in range(2))
    assert sampled == again
    assert sampled != greedy
    assert torch.equal(policy.generator.get_state(), before)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_policy_sees_the_transformed_observation_and_the_return_is_the_environments_own(stochastic):
    shaping = ShapeReward(lambda after: after["reward"] - 100.0)
    bins, seen = BinObservation(2, [-5.0] * 4, [5.0] * 4), []
    policy = TensorDictModule(lambda cell: seen.append(cell) or cell % 2, in_keys=["observation"], out_keys=["action"])
    evaluation = evaluate(policy, CARTPOLE, episodes=4, seed=0, stochastic=stochastic, transforms=[shaping, bins])
    assert evaluation.returns == tuple(float(length) for length in evaluation.lengths)
    assert all(cell.dtype == torch.int64 and cell.shape == (4,) for cell in seen)
    # copies, so that an environment that has them may keep them
    env = make_env(CARTPOLE, transforms=[shaping, bins])
    evaluate(policy, CARTPOLE, episodes=1, seed=0, transforms=env.transform)
    assert env.transform[1].parent is not None
    assert env.transform[1].parent.base_env is env.base_env


def test_transforms_may_change_what_is_not_seen():
    policy = by_step(lambda count: count.squeeze(-1) % 2)
    plain = evaluate(policy, CARTPOLE, episodes=3, seed=0)
    bins = BinObservation(2, [-5.0] * 4, [5.0] * 4)
    assert evaluate(policy, CARTPOLE, episodes=3, seed=0, transforms=[bins]) == plain


def test_stochastic_evaluation_of_a_greedy_actor_explores():
    env = make_env(CARTPOLE)
    policies = [
        TensorDictSequential(
            QActor(MLP(4, 2, (8,)), env.action_spec), EpsilonGreedy(env.action_spec, Linear(epsilon, epsilon, 10))
        )
        for epsilon in (0.0, 1.0)
    ]
    policies[1].load_state_dict(policies[0].state_dict())
    greedy = [evaluate(policy, CARTPOLE, episodes=8, seed=3) for policy in policies]
    sampled = [evaluate(policy, CARTPOLE, episodes=8, seed=3, stochastic=True) for policy in policies]
    assert greedy[0] == greedy[1] == sampled[0]
    assert sampled[1] != greedy[1]


def test_actors_without_a_generator_are_seeded_too():
    policy = make_policy()
    policy.generator = None
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        results.append(evaluate(policy, CARTPOLE, episodes=5, seed=3, stochastic=True))
    assert results[0] == results[1]


def test_nothing_of_the_policy_or_the_global_generator_changes():
    env = make_env(CARTPOLE)
    explorer = EpsilonGreedy(env.action_spec, Linear(1.0, 1.0, 10))
    policy = TensorDictSequential(QActor(MLP(4, 2, (8,)), env.action_spec), explorer)
    state, generator = {k: str(v) for k, v in policy.state_dict().items()}, torch.get_rng_state()
    evaluate(policy, CARTPOLE, episodes=3, seed=0)
    evaluate(policy, CARTPOLE, episodes=3, seed=0, stochastic=True)
    assert {k: str(v) for k, v in policy.state_dict().items()} == state
    assert policy.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_an_endless_environment_is_truncated():
    env = make_env(EnvConfig("tests/Endless-v0"))
    policy = QActor(torch.nn.Sequential(torch.nn.Embedding(3, 3)), env.action_spec)
    assert evaluate(policy, EnvConfig("tests/Endless-v0"), episodes=2, seed=0).lengths == (MAX_EPISODE_STEPS,) * 2


def test_summary():
    summary = Evaluation((1.0, 3.0), (1, 3)).summary()
    assert summary == {"episodes": 2, "mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0}


def test_no_episodes_are_refused():
    with pytest.raises(ConfigError, match="episodes is 0; allowed is 1 or more"):
        evaluate(nn.Identity(), EnvConfig("CartPole-v1"), episodes=0, seed=0)
