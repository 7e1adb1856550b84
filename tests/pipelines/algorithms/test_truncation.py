"""What a true end and a time limit are to each algorithm: targets and advantages of short episodes, by hand.

An episode has three steps, from state 0 over 1 and 2 to 3, with rewards 1, 2 and 4. For the deep algorithms there are
two environments, one step apart, and a batch of seven steps of each cuts their episodes:

    states    1 2 | 0 1 2 | 0 1 : 2        0 1 2 | 0 1 2 | 0 : 1

where `|` is an episode's end, whose true last state 3 is seen under `next` alone, and `:` is the end of the batch.
Gamma is 0.5 everywhere.
"""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import tensor

from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, reinforce, sarsa

STATES = tensor([[1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 2, 0]])
ENDS = ["terminated", "truncated"]
# state 0 is what follows an end in the batch, and is worth far more than the others: who looks at it is found out
VALUES = [[800.0], [4.0], [6.0], [10.0]]
COMMON = {"num_envs": 2, "rollout_steps": 7, "total_frames": 28, "gamma": 0.5}
# a network that can be a table, and that stays what it is
NETWORK = {"hidden": (4,), "activation": "relu", "initialization": "default", "lr": 1e-12, "max_grad_norm": None}
LN2 = math.log(2.0)


class ThreeSteps(gym.Env):
    """Whatever the action is, three steps and then the end that was asked for."""

    observation_space = Discrete(4)
    action_space = Discrete(2)

    def __init__(self, end: str) -> None:
        self.end = end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action):
        reward = [1.0, 2.0, 4.0][self.state]
        self.state += 1
        ended = self.state == 3
        return self.state, reward, ended and self.end == "terminated", ended and self.end == "truncated", {}


for name in ENDS:
    gym.register(f"tests/ThreeSteps-{name}-v0", ThreeSteps, kwargs={"end": name})


def exactly(actual, expected):
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=1e-7, atol=1e-7)


def tabulate(network, table):
    """Let a network of one hidden layer give the row of its state, `[states, outputs]`."""
    first, last = (layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    for layer, weight in ((first, torch.eye(4)), (last, tensor(table).T)):
        layer.weight.data.copy_(weight)
        layer.bias.data.zero_()


def start(module, end, **options):
    """A pipeline, its environments one step apart, and the minibatches that its loss will have been given."""
    config = module.Config(env_id=f"tests/ThreeSteps-{end}-v0", **{**COMMON, **NETWORK, **options})
    pipeline, seen = module.build(config), []
    loss = pipeline.state["loss"]
    loss.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    if module is not dqn:
        tabulate(loss.actor.network, [[0.0, 0.0]] * 4)
        if loss.critic is not None:
            tabulate(loss.critic.network, VALUES)
    envs = pipeline.collector.env.base_env
    envs.advance(np.zeros(2, np.int64))
    envs.restart(np.array([False, True]))
    return pipeline, seen


def collect(pipeline, end, states=STATES):
    """Every batch, after a look at the first one's states and ends."""
    batches = list(pipeline.collector)
    pipeline.close()
    first = batches[0]
    assert torch.equal(first["observation"], states)
    assert torch.equal(first["next", "observation"], states + 1)
    for flag in ENDS:
        assert torch.equal(first["next", flag].squeeze(-1), (states == 2) & (flag == end))
    return batches


# Of states 0, 1 and 2; the greedy actions are 0, 1, 1, and in state 3 action 1.
ONLINE = [[40.0, 8.0], [4.0, 6.0], [2.0, 10.0], [12.0, 20.0]]
TARGET = [[800.0, 880.0], [16.0, 14.0], [22.0, 18.0], [36.0, 32.0]]
CHOSEN = tensor([40.0, 6.0, 10.0])
MAXIMUM = {"double": False}
DOUBLE = {"double": True}
ALONE = {"double": False, "target_network": False}
# of steps from states 0, 1 and 2; then of the batch's last steps, for which less than n steps are left
DQN_TARGETS = [
    # max of the target network: 1 + 16/2, 2 + 22/2, and 4 + 36/2 or 4
    (1, MAXIMUM, "truncated", [9.0, 13.0, 22.0], ([9.0, 13.0], [9.0])),
    (1, MAXIMUM, "terminated", [9.0, 13.0, 4.0], ([9.0, 13.0], [9.0])),
    # the target network at the online network's choice, action 1: 1 + 14/2, 2 + 18/2, and 4 + 32/2 or 4
    (1, DOUBLE, "truncated", [8.0, 11.0, 20.0], ([8.0, 11.0], [8.0])),
    (1, DOUBLE, "terminated", [8.0, 11.0, 4.0], ([8.0, 11.0], [8.0])),
    # max of the online network: 1 + 6/2, 2 + 10/2, and 4 + 20/2 or 4
    (1, ALONE, "truncated", [4.0, 7.0, 14.0], ([4.0, 7.0], [4.0])),
    (1, ALONE, "terminated", [4.0, 7.0, 4.0], ([4.0, 7.0], [4.0])),
    # 1 + 2/2 + 4/4 = 3 and 36/8; 2 + 4/2 = 4 and 36/4; 4 and 36/2
    # the last steps: two rewards, 1 + 2/2 and 22/4, then 2 + 22/2; in the other row one, 1 + 16/2
    (3, MAXIMUM, "truncated", [7.5, 13.0, 22.0], ([7.5, 13.0], [9.0])),
    (3, MAXIMUM, "terminated", [3.0, 4.0, 4.0], ([7.5, 13.0], [9.0])),
    # 3 + 32/8, 4 + 32/4, 4 + 32/2; the last steps: 2 + 18/4, 2 + 18/2; 1 + 14/2
    (3, DOUBLE, "truncated", [7.0, 12.0, 20.0], ([6.5, 11.0], [8.0])),
    (3, DOUBLE, "terminated", [3.0, 4.0, 4.0], ([6.5, 11.0], [8.0])),
    # 3 + 20/8, 4 + 20/4, 4 + 20/2; the last steps: 2 + 10/4, 2 + 10/2; 1 + 6/2
    (3, ALONE, "truncated", [5.5, 9.0, 14.0], ([4.5, 7.0], [4.0])),
    (3, ALONE, "terminated", [3.0, 4.0, 4.0], ([4.5, 7.0], [4.0])),
]


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize(("n_steps", "options", "end", "targets", "cut"), DQN_TARGETS)
def test_dqn(n_steps, options, end, targets, cut, replay):
    options = {**options, "n_steps": n_steps, "kind": "mse", "replay": replay, "target_every": 1000}
    options |= {"layer_norm": False, "epsilon_start": 0.0, "epsilon_end": 0.0}
    options |= {"minibatch_size": 150, "warmup_frames": 14, "updates": 1} if replay else {}
    pipeline, seen = start(dqn, end, **options)
    loss = pipeline.state["loss"]
    tabulate(loss.q_network.network, ONLINE)
    if loss.target_network is not None:
        tabulate(loss.target_network.network, TARGET)
    batch = collect(pipeline, end)[0]
    scalars = pipeline.learn(batch)

    zero, one, two = targets
    target = tensor([one, two, zero, one, two, *cut[0], zero, one, two, zero, one, two, *cut[1]])
    error = (target - CHOSEN[STATES.flatten()]).abs()
    given = [(each["observation"].item(), round(loss(each)["td_error"].item(), 5)) for each in seen[0].split(1)]
    expected = list(zip(STATES.flatten().tolist(), error.tolist(), strict=True))
    if replay:
        # so many are drawn that each is among them
        assert set(given) == set(expected)
    else:
        assert given == expected
        torch.testing.assert_close(scalars["td_error"], error.mean())
        torch.testing.assert_close(scalars["loss_td"], error.square().mean())
    if n_steps == 1:
        # the other way that the loss has: its own gamma, and the ends as they were collected
        loss.n_step, loss.gamma = False, 0.5
        exactly(torch.stack([loss(each)["td_error"] for each in batch.reshape(-1).split(1)]), error)


# lambda is 0.5, so what is ahead counts for a quarter a step; with V of states 0 to 3 as 800, 4, 6, 10:
#   in state 2: 4 + 10/2 - 6 = 3 where truncated, 4 - 6 = -2 where terminated
#   in state 1: 2 + 6/2 - 4 = 1, and a quarter of the above: 1.75 or 0.5
#   in state 0: 1 + 4/2 - 800 = -797, and a quarter of that: -796.5625 or -796.875
# at the end of the batch, in states 0 and 1 of the one row: 1, and -797 + 1/4 before; in state 0 of the other: -797
ADVANTAGES = {
    "truncated": [
        [1.75, 3.0, -796.5625, 1.75, 3.0, -796.75, 1.0],
        [-796.5625, 1.75, 3.0, -796.5625, 1.75, 3.0, -797.0],
    ],
    "terminated": [
        [0.5, -2.0, -796.875, 0.5, -2.0, -796.75, 1.0],
        [-796.875, 0.5, -2.0, -796.875, 0.5, -2.0, -797.0],
    ],
}
# the advantage and the value: 3.4375, 5.75, 9 of states 0 to 2 where truncated; 3.125, 4.5, 4 where terminated
VALUE_TARGETS = {
    "truncated": [[5.75, 9.0, 3.4375, 5.75, 9.0, 3.25, 5.0], [3.4375, 5.75, 9.0, 3.4375, 5.75, 9.0, 3.0]],
    "terminated": [[4.5, 4.0, 3.125, 4.5, 4.0, 3.25, 5.0], [3.125, 4.5, 4.0, 3.125, 4.5, 4.0, 3.0]],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("module", [a2c, ppo])
def test_actor_critic(module, end):
    options = {"lmbda": 0.5, "value_coefficient": 0.5, "normalize_advantage": False}
    options |= {"minibatch_size": 14, "epochs": 1} if module is ppo else {}
    pipeline, seen = start(module, end, **options)
    batch = collect(pipeline, end)[0]
    scalars = pipeline.learn(batch)
    advantage, target = tensor(ADVANTAGES[end]), tensor(VALUE_TARGETS[end])
    exactly(batch["state_value"], tensor(VALUES)[STATES])
    exactly(batch["advantage"], advantage)
    exactly(batch["value_target"], target)
    # each of them stays with its state, in whatever order the minibatch is
    (minibatch,) = seen
    given = [minibatch[key].flatten().tolist() for key in ("observation", "advantage", "value_target")]
    expected = [each.flatten().tolist() for each in (STATES, advantage, target)]
    assert sorted(zip(*given, strict=True)) == sorted(zip(*expected, strict=True))
    # two actions, equally likely; for PPO both policies are the same, and their ratio is 1
    torch.testing.assert_close(scalars["loss_policy"], advantage.mean() * (LN2 if module is a2c else -1.0))
    # the error of the value is the advantage
    torch.testing.assert_close(scalars["loss_value"], 0.5 * advantage.square().mean())


# 1 + 2/2 + 4/4, 2 + 4/2, 4: nothing is bootstrapped, and a time limit is an end like any other
RETURNS = [3.0, 4.0, 4.0]
# less the values 800, 4, 6
ADVANTAGE_OF_RETURNS = [-797.0, 0.0, -2.0]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce(baseline, end):
    pipeline, seen = start(reinforce, end, baseline=baseline, normalize="none", value_coefficient=0.5)
    scalars = [pipeline.learn(batch) for batch in collect(pipeline, end)]
    weight = ADVANTAGE_OF_RETURNS if baseline else RETURNS
    # the first episode of the one row has begun before the batch; what a batch cuts off is learned from in the next:
    # 2 | 0 1 2 | 0 1 2 and 1 2 | 0 1 2 | 0 1
    for minibatch, states, scalar in zip(
        seen, [[1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2], [0, 1, 2] * 5], scalars, strict=True
    ):
        assert minibatch["observation"].tolist() == states
        weights = tensor(weight)[states]
        exactly(minibatch["advantage"], weights)
        torch.testing.assert_close(scalar["loss_policy"], LN2 * weights.mean())
        if baseline:
            exactly(minibatch["value_target"], tensor(RETURNS)[states])
            torch.testing.assert_close(scalar["loss_value"], 0.5 * weights.square().mean())


# A table that takes action 1, to collect with, and what is there before the batch is learned from: but for state 0, the
# better action is the other one, which is never taken. One environment: 0 1 2 | 0 1 : 2, learned from step by step.
TAKE_ACTION_1 = [[-1000.0, 1000.0]] * 4
BEFORE = [[8.0, 400.0], [6.0, 4.0], [10.0, 2.0], [20.0, 12.0]]
ROW = tensor([[0, 1, 2, 0, 1]])


def learn_from_five_steps(module, end, before, **options):
    """The scalars of the batch, and the table after it."""
    options |= {} if module is policy_gradient else {"gamma": 0.5, "epsilon_start": 0.0, "epsilon_end": 0.0}
    config = module.Config(env_id=f"tests/ThreeSteps-{end}-v0", rollout_steps=5, total_frames=5, **options)
    pipeline = module.build(config)
    policy = pipeline.policy if module is policy_gradient else pipeline.policy[0]
    values = policy.network.values
    values.copy_(tensor(TAKE_ACTION_1))
    (batch,) = collect(pipeline, end, ROW)
    assert (batch["action"] == 1).all()
    values.copy_(tensor(before))
    return pipeline.learn(batch), values


@pytest.mark.parametrize(
    ("end", "last", "mean_error"),
    [
        # 4 + 20/2 - 2 = 12: entry 2 + 6. |errors|: (396 + 3 + 12 + 198 + 1.5) / 5
        ("truncated", 8.0, 122.1),
        # 4 - 2 = 2: entry 2 + 1. |errors|: (396 + 3 + 2 + 198 + 1.5) / 5
        ("terminated", 3.0, 120.1),
    ],
)
def test_q_learning(end, last, mean_error):
    scalars, values = learn_from_five_steps(q_learning, end, BEFORE, step_size=0.5)
    # state 0: 1 + 6/2 - 400 = -396, entry 202;  again, after the end: 1 + 6/2 - 202 = -198, entry 103
    # state 1: 2 + 10/2 - 4 = 3, entry 5.5;      again: 2 + 10/2 - 5.5 = 1.5, entry 6.25
    exactly(values, [[8.0, 103.0], [6.0, 6.25], [10.0, last], [20.0, 12.0]])
    exactly(scalars["td_error"], mean_error)


@pytest.mark.parametrize(
    ("end", "last", "mean_error"),
    [
        # the policy would take action 0 in state 3: 4 + 20/2 - 2 = 12. |errors|: (397 + 1 + 12 + 198.75) / 4
        ("truncated", 8.0, 152.1875),
        # 4 - 2 = 2. |errors|: (397 + 1 + 2 + 198.75) / 4
        ("terminated", 3.0, 149.6875),
    ],
)
def test_sarsa(end, last, mean_error):
    scalars, values = learn_from_five_steps(sarsa, end, BEFORE, step_size=0.5)
    # action 1 follows. State 0: 1 + 4/2 - 400 = -397, entry 201.5;  again: 1 + 3.5/2 - 201.5 = -198.75, entry 102.125
    # state 1: 2 + 2/2 - 4 = -1, entry 3.5;  again: waits for the action that comes after the batch
    exactly(values, [[8.0, 102.125], [6.0, 3.5], [10.0, last], [20.0, 12.0]])
    exactly(scalars["td_error"], mean_error)


@pytest.mark.parametrize("end", ENDS)
def test_policy_gradient(end):
    # probability of action 1: a quarter in state 0, a half in state 1, a fifth in state 2
    before = [[math.log(3.0), 0.0], [0.0, 0.0], [math.log(4.0), 0.0], [0.0, 0.0]]
    scalars, values = learn_from_five_steps(policy_gradient, end, before, step_size=0.6)
    # the return is 7 in three steps, whatever the end, and 0.6 * 7/3 = 1.4 is the weight of 1 - 1/4, 1 - 1/2, 1 - 1/5;
    # what the second episode has so far waits for its end
    moves = tensor([[-1.05, 1.05], [-0.7, 0.7], [-1.12, 1.12], [0.0, 0.0]])
    exactly(values, tensor(before) + moves)
    assert scalars["updates"] == 1
