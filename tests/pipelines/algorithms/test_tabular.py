"""Tabular methods against plain NumPy, batch by batch."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.wrappers import TransformReward
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import policy_gradient, q_learning, sarsa
from rlpipe.pipelines.algorithms.recipes import builder, find_recipe
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.envs.builtin.maze import Maze


def costly(env):
    return TransformReward(env, lambda reward: reward - 1)


MODULES = {"q_learning": q_learning, "sarsa": sarsa, "policy_gradient": policy_gradient}
# whichever version of them Gymnasium has
TAXI, CLIFF = (max(each for each in gym.registry if each.startswith(name)) for name in ("Taxi-", "CliffWalking-"))
# up, right, down, left; a state that is not here allows all four
MAZE = {0: (1, 2), 1: (1, 3), 2: (2, 3), 3: (0,), 4: (1, 2), 5: (0, 3), 6: (1,), 7: (0, 1, 3)}
# at a cost a step, a forbidden action would be the best one, and there is something to learn without the goal
gym.register("tests/CostlyMaze-v0", lambda **kwargs: costly(Maze(**kwargs)), max_episode_steps=30)
gym.register("tests/CostlyLake-v0", lambda **kwargs: costly(FrozenLakeEnv(**kwargs)), max_episode_steps=9)
ENVS = {
    "rlpipe/Maze-v0": {"max_episode_steps": None},
    "tests/CostlyMaze-v0": {"max_episode_steps": None},
    CLIFF: {"max_episode_steps": 7},
    "tests/CostlyLake-v0": {"max_episode_steps": None},
}
# environments, steps of each in a batch, batches
SHAPES = [(1, 1, 300), (1, 8, 60), (5, 1, 200), (5, 8, 40)]
exactly = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


def start(algorithm, env_id=CLIFF, batches=200, **options):
    """A pipeline that collects so many batches."""
    frames = options.get("num_envs", 1) * options.get("rollout_steps", 1) * batches
    settings = {**ENVS.get(env_id, {}), "total_frames": frames, **options}
    return MODULES[algorithm].build(MODULES[algorithm].Config(env_id=env_id, **settings))


def batches_of(pipeline):
    yield from pipeline.collector
    pipeline.close()


def values(pipeline):
    return pipeline.state["change"]._table.values.numpy()


def allowed(env_id, states, actions=4):
    """What may be done in each state, `[states, actions]`, not taken from any batch."""
    mask = np.ones((states, actions), bool)
    if "Maze" in env_id:
        for state, moves in MAZE.items():
            mask[state] = np.isin(np.arange(actions), moves)
    return mask


def transitions(batch):
    """Of each time step, a list with the transition of each environment: s, a, r, s', terminated, done."""
    after = batch["next"]
    columns = [batch["observation"], batch["action"], after["reward"], after["observation"]]
    columns += [after["terminated"], after["done"]]
    arrays = [column.reshape(batch.shape).T.tolist() for column in columns]
    return [list(zip(*(array[time] for array in arrays), strict=True)) for time in range(batch.shape[1])]


class QLearning:
    def __init__(self, q, mask, gamma, step_size):
        self.q, self.mask, self.gamma, self.step_size = q, mask, gamma, step_size

    def learn(self, step):
        targets = [r + (0.0 if ended else self.gamma * self.q[n][self.mask[n]].max()) for _, _, r, n, ended, _ in step]
        errors = [target - self.q[s, a] for target, (s, a, *_) in zip(targets, step, strict=True)]
        for error, (s, a, *_) in zip(errors, step, strict=True):
            self.q[s, a] += self.step_size * error
        return errors


class Sarsa:
    """Each environment's step waits until its next action is known; `ask` chooses where an episode is truncated."""

    def __init__(self, q, gamma, step_size, ask):
        self.q, self.gamma, self.step_size, self.ask, self.waiting = q, gamma, step_size, ask, {}

    def learn(self, step):
        errors = self.move([(*w, self.q[step[i][0], step[i][1]]) for i, w in self.waiting.items()])
        ended = {i: each for i, each in enumerate(step) if each[5]}
        following = [0.0 if each[4] else self.q[each[3], self.ask(i, each[3])] for i, each in ended.items()]
        errors += self.move([(*each[:3], value) for each, value in zip(ended.values(), following, strict=True)])
        self.waiting = {i: each[:3] for i, each in enumerate(step) if not each[5]}
        return errors

    def move(self, complete):
        errors = [r + self.gamma * value - self.q[s, a] for s, a, r, value in complete]
        for error, (s, a, *_) in zip(errors, complete, strict=True):
            self.q[s, a] += self.step_size * error
        return errors


class PolicyGradient:
    def __init__(self, theta, mask, beta, step_size):
        self.theta, self.mask, self.beta, self.step_size = theta, mask, beta, step_size
        self.episodes = {}

    def policy(self):
        weights = np.where(self.mask, np.exp(self.beta * self.theta), 0.0)
        return weights / weights.sum(1, keepdims=True)

    def learn(self, steps):
        moves = []
        for step in steps:
            for index, each in enumerate(step):
                episode = self.episodes.setdefault(index, [])
                episode.append(each)
                if each[5]:
                    moves.append(self.gradient(self.episodes.pop(index)))
        for move in moves:
            self.theta += self.step_size * move
        return len(moves)

    def gradient(self, episode):
        counts = np.zeros_like(self.theta)
        for s, a, *_ in episode:
            counts[s, a] += 1
        total = sum(r for _, _, r, *_ in episode)
        return total * (counts - self.policy() * counts.sum(1, keepdims=True)) / len(episode)


class Asked:
    """A policy that remembers what it was asked and what it chose."""

    def __init__(self, policy):
        self.policy, self.chosen = policy, []

    def __call__(self, tensordict):
        answer = self.policy(tensordict)
        self.chosen.append(list(zip(answer["observation"].tolist(), answer["action"].tolist(), strict=True)))
        return answer


def test_the_batches_here_have_all_kinds_of_ends():
    for env_id, ends in {
        "rlpipe/Maze-v0": (True, False),
        "tests/CostlyMaze-v0": (True, True),
        CLIFF: (False, True),
        "tests/CostlyLake-v0": (True, True),
    }.items():
        after = [batch["next"] for batch in batches_of(start("q_learning", env_id, 40, num_envs=5, rollout_steps=8))]
        found = [any(each[key].any() for each in after) for key in ("terminated", "truncated")]
        assert tuple(found) == ends


@pytest.mark.parametrize(("num_envs", "rollout_steps", "batches"), SHAPES)
@pytest.mark.parametrize("env_id", ENVS)
def test_q_learning_is_the_plain_numpy_one(env_id, num_envs, rollout_steps, batches):
    options = {"gamma": 0.93, "step_size": 0.3, "epsilon_start": 0.5, "num_envs": num_envs}
    pipeline = start("q_learning", env_id, batches, rollout_steps=rollout_steps, **options)
    plain = QLearning(values(pipeline).copy(), allowed(env_id, len(values(pipeline))), 0.93, 0.3)
    twice = 0
    for batch in batches_of(pipeline):
        scalars = pipeline.learn(batch)
        errors = []
        for step in transitions(batch):
            errors += plain.learn(step)
            twice += len({each[:2] for each in step}) < len(step)
        exactly(values(pipeline), plain.q)
        exactly(scalars["td_error"], np.abs(errors).mean())
        assert scalars["updates"] == rollout_steps
    assert (twice > 0) == (num_envs > 1)
    assert plain.q.any()


@pytest.mark.parametrize(("num_envs", "rollout_steps", "batches"), SHAPES)
@pytest.mark.parametrize("env_id", ENVS)
def test_sarsa_is_the_plain_numpy_one(env_id, num_envs, rollout_steps, batches):
    options = {"gamma": 0.93, "step_size": 0.3, "epsilon_start": 0.5, "num_envs": num_envs}
    pipeline = start("sarsa", env_id, batches, rollout_steps=rollout_steps, **options)
    rule = pipeline.state["rule"]
    rule.policy = asked = Asked(rule.policy)

    def ask(index, state):
        # asked once a time step, of all environments whose episode ended in it
        told, chosen = answers[0].pop(0)
        assert told == state
        return chosen

    plain = Sarsa(values(pipeline).copy(), 0.93, 0.3, ask)
    mask = allowed(env_id, len(plain.q))
    for batch in batches_of(pipeline):
        scalars = pipeline.learn(batch)
        answers, asked.chosen = asked.chosen, []
        errors = []
        for step in transitions(batch):
            ended = [each for each in step if each[5]]
            if ended:
                assert [state for state, _ in answers[0]] == [each[3] for each in ended]
                answers[0] = [pair for pair, each in zip(answers[0], ended, strict=True) if not each[4]]
                assert all(mask[pair] for pair in answers[0])
            errors += plain.learn(step)
            if ended:
                assert answers.pop(0) == []
        assert answers == []
        exactly(values(pipeline), plain.q)
        if errors:
            exactly(scalars["td_error"], np.abs(errors).mean())
        else:
            assert "td_error" not in scalars
    assert plain.q.any()


@pytest.mark.parametrize("env_id", ["rlpipe/Maze-v0", CLIFF])
def test_sarsa_in_steps_of_one_is_the_algorithm_of_the_book(env_id):
    options = {"gamma": 0.9, "step_size": 0.1, "epsilon_start": 0.0, "epsilon_end": 0.0, "max_episode_steps": None}
    pipeline = start("sarsa", env_id, batches=600, **options)
    tables, actions = [], []
    for batch in batches_of(pipeline):
        pipeline.learn(batch)
        tables.append(values(pipeline).copy())
        actions += batch["action"].flatten().tolist()

    env, q = gym.make(env_id), np.zeros_like(tables[0])
    mask = allowed(env_id, len(q))

    def state_of(observation):
        return observation["observation"] if isinstance(observation, dict) else observation

    def choose(state):
        action = actions[len(seen)]
        assert mask[state, action]
        assert q[state, action] == pytest.approx(q[state][mask[state]].max(), abs=1e-12)
        return action

    seen = []
    state = state_of(env.reset()[0])
    action = choose(state)
    while True:
        observation, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        following = state_of(observation)
        if terminated:
            q[state, action] += 0.1 * (reward - q[state, action])
            seen.append(q.copy())
            if len(seen) == len(actions):
                break
            state = state_of(env.reset()[0])
            action = choose(state)
        else:
            # the pipeline's batch ends here, and the update waits for the next one
            seen.append(q.copy())
            if len(seen) == len(actions):
                break
            next_action = choose(following)
            q[state, action] += 0.1 * (reward + 0.9 * q[following, next_action] - q[state, action])
            state, action = following, next_action
    exactly(tables, seen)
    assert q.any()


@pytest.mark.parametrize("env_id", [CLIFF, "tests/CostlyMaze-v0"])
@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_at_a_truncation_sarsa_takes_the_action_that_its_policy_would(env_id, epsilon):
    options = {"epsilon_start": epsilon, "epsilon_end": epsilon, "max_episode_steps": 3, "gamma": 0.9}
    pipeline = start("sarsa", env_id, batches=600, **options)
    rule, mask = pipeline.state["rule"], allowed(env_id, len(values(pipeline)))
    policy, greedy = rule.policy, []

    def ask(tensordict):
        answer = policy(tensordict)
        (state,), (action,) = answer["observation"].tolist(), answer["action"].tolist()
        assert mask[state, action]
        row = values(pipeline)[state]
        greedy.append(row[action] == row[mask[state]].max())
        return answer

    rule.policy = ask
    for batch in batches_of(pipeline):
        # a learner is asked outside of any collector
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            pipeline.learn(batch)
    assert len(greedy) == 200
    assert all(greedy) == (epsilon == 0.0)


@pytest.mark.parametrize(("num_envs", "rollout_steps", "batches"), SHAPES)
@pytest.mark.parametrize("env_id", ENVS)
def test_policy_gradient_is_the_plain_numpy_one(env_id, num_envs, rollout_steps, batches):
    options = {"step_size": 0.05, "beta": 0.7, "num_envs": num_envs, "rollout_steps": rollout_steps}
    pipeline = start("policy_gradient", env_id, batches, **options)
    theta = values(pipeline).copy()
    assert (theta == 1.0).all()
    plain = PolicyGradient(theta, allowed(env_id, len(theta)), 0.7, 0.05)
    policy = last = plain.policy()
    for batch in batches_of(pipeline):
        taken = np.log(policy[batch["observation"].numpy(), batch["action"].numpy()])
        np.testing.assert_allclose(batch["action_log_prob"].numpy(), taken, rtol=1e-5, atol=1e-6)
        scalars = pipeline.learn(batch)
        finished = plain.learn(transitions(batch))
        policy = plain.policy()
        exactly(values(pipeline), plain.theta)
        # under a negative return preferences run apart, and rounding errors with them
        plain.theta[:] = values(pipeline)
        assert scalars["updates"] == finished
        change = np.abs(policy - last).sum() if finished else 0.0
        assert ("change" in scalars) == (change > 0)
        if change:
            exactly(scalars["change"], change)
            last = policy
    assert (plain.theta != 1.0).any()


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa"])
@pytest.mark.parametrize(("num_envs", "rollout_steps", "batches"), [(1, 1, 500), (3, 5, 100)])
@pytest.mark.parametrize("env_id", ["tests/CostlyMaze-v0", "rlpipe/Maze-v0", "tests/CostlyLake-v0"])
def test_change_is_how_far_the_greedy_values_moved_since_an_episode_last_ended(
    algorithm, env_id, num_envs, rollout_steps, batches
):
    pipeline = start(algorithm, env_id, num_envs=num_envs, rollout_steps=rollout_steps, batches=batches)
    mask = allowed(env_id, len(values(pipeline)))
    last, changes = np.zeros(len(mask)), []
    for batch in batches_of(pipeline):
        scalars = pipeline.learn(batch)
        if not batch["next", "done"].any():
            assert "change" not in scalars
            continue
        now = np.where(mask, values(pipeline), -np.inf).max(1)
        # nothing learned is no sign of an end
        assert ("change" in scalars) == (now != last).any()
        if "change" in scalars:
            exactly(scalars["change"], np.abs(now - last).sum())
            changes.append(scalars["change"].item())
        last = now
    assert len(changes) > 5
    assert env_id != "tests/CostlyMaze-v0" or last.min() < 0


@pytest.mark.parametrize("algorithm", MODULES)
def test_episodes_without_a_reward_tell_of_no_change(algorithm):
    pipeline = start(algorithm, "rlpipe/Maze-v0", max_episode_steps=2)
    assert not any("change" in pipeline.learn(batch) for batch in batches_of(pipeline))


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa"])
@pytest.mark.parametrize("env_id", ENVS)
def test_greedy_actions_are_among_the_best_allowed_ones(algorithm, env_id):
    options = {"epsilon_start": 0.0, "epsilon_end": 0.0, "num_envs": 3}
    pipeline = start(algorithm, env_id, **options)
    mask = allowed(env_id, len(values(pipeline)))
    for batch in batches_of(pipeline):
        scores = np.where(mask, values(pipeline), -np.inf)
        for [(state, action, *_)] in zip(*transitions(batch), strict=True):
            assert scores[state, action] == scores[state].max()
        pipeline.learn(batch)


def choices(pipeline, exploration, state, mask=None):
    """What the policy does in 4000 environments, all in the same state."""
    observed = {"observation": torch.full((4000,), state)}
    if mask is not None:
        observed["action_mask"] = torch.tensor(mask).expand(4000, 4)
    with set_exploration_type(exploration):
        return pipeline.policy(TensorDict(observed, batch_size=4000))["action"].bincount(minlength=4).numpy()


@pytest.mark.parametrize("algorithm", ["q_learning", "sarsa"])
@pytest.mark.parametrize("env_id", ["rlpipe/Maze-v0", CLIFF])
def test_ties_are_broken_at_random_while_exploring_only(algorithm, env_id):
    pipeline = start(algorithm, env_id, epsilon_start=0.0, epsilon_end=0.0)
    mask = [True, True, False, True] if "Maze" in env_id else None
    values(pipeline)[4] = [-2.0, -2.0, 7.0 if mask else -3.0, -2.0]
    counts = choices(pipeline, ExplorationType.RANDOM, 4, mask)
    assert counts[2] == 0
    # 4000 / 3, and four standard deviations
    assert (abs(counts[[0, 1, 3]] - 1333) < 120).all()
    random = pipeline.state["random"].state_dict()
    assert choices(pipeline, ExplorationType.DETERMINISTIC, 4, mask).tolist() == [4000, 0, 0, 0]
    after = pipeline.state["random"].state_dict()
    assert {"ties", "exploration"} <= set(after)
    assert all(torch.equal(after[name], random[name]) for name in random)
    pipeline.close()


def test_in_evaluation_the_policy_gradient_takes_the_likeliest_allowed_action():
    pipeline = start("policy_gradient", "rlpipe/Maze-v0", beta=2.0)
    values(pipeline)[4] = [0.0, 0.5, 9.0, 0.0]
    mask = [True, True, False, True]
    assert choices(pipeline, ExplorationType.DETERMINISTIC, 4, mask).tolist() == [0, 4000, 0, 0]
    counts = choices(pipeline, ExplorationType.RANDOM, 4, mask)
    assert counts[2] == 0
    # e / (e + 2), and four standard deviations
    assert abs(counts[1] - 4000 * np.e / (np.e + 2)) < 125
    pipeline.close()


@pytest.mark.parametrize("recipe", ["q-learning/maze", "sarsa/maze"])
def test_in_the_maze_epsilon_halves_with_every_episode(recipe):
    config = find_recipe(recipe).config()
    pipeline = builder(find_recipe(recipe).algorithm)(config)
    episodes = 0
    for batch in batches_of(pipeline):
        assert pipeline.policy[1].epsilon == 0.5 * 0.5**episodes
        episodes += int(batch["next", "done"].sum())
        assert pipeline.learn(batch)["epsilon"] == 0.5 * 0.5**episodes
        if episodes == 20:
            pipeline.collector.shutdown()
            break
    assert episodes == 20


@pytest.mark.parametrize("algorithm", MODULES)
@pytest.mark.parametrize("env_id", ["FrozenLake-v1", TAXI, CLIFF])
def test_any_discrete_environment(algorithm, env_id):
    pipeline = start(algorithm, env_id, num_envs=4, rollout_steps=50, max_episode_steps=20, batches=4)
    env = gym.make(env_id)
    before = values(pipeline).copy()
    assert before.shape == (env.observation_space.n, env.action_space.n)
    updates = sum(pipeline.learn(batch)["updates"].item() for batch in batches_of(pipeline))
    assert updates >= 40
    assert np.isfinite(values(pipeline)).all()
    # without the goal, nothing is to be learned on the lake
    assert (values(pipeline) != before).any() or env_id == "FrozenLake-v1"


@pytest.mark.parametrize(
    "recipe", ["q-learning/maze", "sarsa/maze", "policy-gradient/maze", "q-learning/cartpole-bins"]
)
def test_the_tabular_recipes_learn(recipe):
    pipeline = builder(find_recipe(recipe).algorithm)(find_recipe(recipe).config())
    before = values(pipeline).copy()
    for batch, _ in zip(pipeline.collector, range(2000), strict=False):
        pipeline.learn(batch)
        if (values(pipeline) != before).any():
            break
    pipeline.close()
    assert (values(pipeline) != before).any()
    assert len(before) == (1296 if "bins" in recipe else 9)


@pytest.mark.parametrize("algorithm", MODULES)
def test_a_box_needs_bins(algorithm):
    message = "'CartPole-v1', whose observation is a Box; .* BinObservation .*, with --bins, --bin-low and --bin-high"
    with pytest.raises(ConfigError, match=message):
        start(algorithm, "CartPole-v1")
    limits = {"bin_low": (-1.0,) * 3, "bin_high": (1.0,) * 3}
    with pytest.raises(ConfigError, match="env_id is 'Pendulum-v1', whose actions are a Box; a table needs Discrete"):
        start(algorithm, "Pendulum-v1", bins=4, **limits)
    with pytest.raises(ConfigError, match="bins is 4, which needs bin_low and bin_high"):
        start(algorithm, "Pendulum-v1", bins=4, bin_low=(-1.0,) * 3)
    with pytest.raises(ConfigError, match="device is 'cuda'; a table is on the CPU"):
        start(algorithm, device="cuda")


@pytest.mark.parametrize("env_id", ["tests/CostlyMaze-v0", CLIFF])
@pytest.mark.parametrize("algorithm", MODULES)
def test_a_learner_from_a_checkpoint_goes_on_as_the_first_one(algorithm, env_id, tmp_path):
    options = {"num_envs": 3, "rollout_steps": 5, "batches": 30}
    first, second = start(algorithm, env_id, **options), start(algorithm, env_id, seed=1, **options)
    for number, batch in enumerate(batches_of(first)):
        if number % 7 == 3:
            save_checkpoint(tmp_path / str(number), first.state, {})
            load_checkpoint(tmp_path / str(number), second.state)
        # the first one's collector has drawn from its generators, and the second has none
        second.state["random"].load_state_dict(first.state["random"].state_dict())
        expected, scalars = first.learn(batch), second.learn(batch)
        if number >= 3:
            assert set(scalars.keys()) == set(expected.keys())
            assert all(torch.equal(scalars[key], expected[key]) for key in expected.keys())
            assert np.array_equal(values(second), values(first))
    second.close()
    for name in ("rule", "episodes"):
        assert (name in first.state) == ({"rule": "sarsa", "episodes": "policy_gradient"}[name] == algorithm)
