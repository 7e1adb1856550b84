"""Action masks from the environment to the loss: specs, random actions, and pipelines that never ask for a wall."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from torchrl.data import Binary
from torchrl.envs import ActionDiscretizer, ActionMask, StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, Network, encoder, policy_outputs, stochastic_actor
from rlpipe.pipelines.algorithms import a2c, dqn, ppo, qr_dqn, reinforce
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, OneHotObservation, make_env
from rlpipe.pipelines.envs.builtin.register import register

register()
MAZE = "rlpipe/Maze-v0"
BACKENDS = ["sync", "async"]


class Observing(gym.Env):
    """An environment of any observation space, and actions 0 to 2 or others."""

    def __init__(self, space, actions=None) -> None:
        self.observation_space, self.action_space = space, actions or Discrete(3)


MASK = Box(0, 1, (3,), np.int8)
SPACES = {
    "Bare": (Dict(action_mask=MASK), "nothing but an action_mask"),
    "Short": (Dict(observation=Discrete(2), action_mask=Box(0, 1, (2,), np.int8)), "has 2 numbers, expected 3: one an"),
    "Count": (Dict(observation=Discrete(2), action_mask=Discrete(3)), "has 1 numbers, expected 3: one an action"),
    "Parts": (Dict(observation=Discrete(2), action_mask=Tuple([MASK, MASK])), "has 3 and 3 numbers, expected 3: one"),
}
for name, (space, _) in SPACES.items():
    gym.register(f"tests/Masked{name}-v0", Observing, kwargs={"space": space})
gym.register(
    "tests/MaskedBox-v0", Observing, kwargs={"space": Dict(observation=Discrete(2), action_mask=MASK), "actions": MASK}
)


def open_moves(td):
    """Whether each action is one that the mask at its root allows."""
    return td["action_mask"].gather(-1, td["action"].unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_specs_hold_in_the_maze(backend, num_envs):
    env = make_env(EnvConfig(MAZE, num_envs, backend), seed=0)
    check_env_specs(env)
    spec = env.observation_spec["action_mask"]
    assert isinstance(spec, Binary)
    assert (spec.shape, spec.dtype) == ((num_envs, 4), torch.bool)
    env.close()


@pytest.mark.parametrize(
    ("way", "num_envs", "backend"),
    [
        ("among the transforms", 1, "sync"),
        ("among the transforms", 3, "sync"),
        ("on top", 1, "async"),
        ("on top", 3, "sync"),
        ("appended", 3, "sync"),
    ],
)
def test_torchrls_action_mask_can_be_put_on_top(way, num_envs, backend):
    config = EnvConfig(MAZE, num_envs, backend)
    env = make_env(config, seed=0, transforms=[ActionMask()] if way == "among the transforms" else [])
    if way == "on top":
        env = TransformedEnv(env.base_env, ActionMask())
    if way == "appended":
        env.append_transform(ActionMask())
    for seed in range(1 if backend == "async" else 8):
        torch.manual_seed(seed)
        check_env_specs(env)
    rollout = env.rollout(60, break_when_any_done=False)
    assert open_moves(rollout).all()
    env.close()


def test_random_actions_are_allowed_ones_under_another_transformed_env_too():
    env = TransformedEnv(make_env(EnvConfig(MAZE, 3), seed=0), StepCounter(step_count_key="count"))
    assert open_moves(env.rollout(60, break_when_any_done=False)).all()


def test_transforms_of_actions_can_be_added_where_there_is_no_mask():
    env = make_env(EnvConfig("Pendulum-v1", 2), seed=0, transforms=[ActionDiscretizer(5)])
    check_env_specs(env)
    assert env.rollout(4)["action"].shape[:2] == (2, 4)


class Pairs(gym.Env):
    """Allows the first of two `up` and the last of two `left`, which are not in the order of the alphabet."""

    observation_space = Dict(seen=Discrete(2), action_mask=Box(0, 1, (4,), np.int8))
    action_space = Dict(up=Discrete(2), left=Discrete(2))

    def reset(self, *, seed=None, options=None):
        return {"seen": 0, "action_mask": np.array([1, 0, 0, 1], np.int8)}, {}

    def step(self, action):
        return *self.reset()[:1], 0.0, False, False, {}


def test_random_actions_of_a_dict_are_those_that_its_mask_allows():
    env = make_env(EnvConfig(Pairs, 3), seed=0)
    actions = env.rollout(10)["action"]
    assert (actions["up"] == 0).all()
    assert (actions["left"] == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_maze_equals_single_mazes_step_by_step(backend):
    env = make_env(EnvConfig(MAZE, 3, backend, max_episode_steps=9), seed=0)
    singles = [gym.make(MAZE, max_episode_steps=9) for _ in range(3)]
    nows = [single.reset()[0] for single in singles]
    td, ends = env.reset(), []
    torch.manual_seed(0)
    for _ in range(150):
        stepped, following = env.step_and_maybe_reset(env.rand_action(td))
        for index, single in enumerate(singles):
            for key, value in nows[index].items():
                assert stepped[key][index].tolist() == np.asarray(value).tolist()
            after, reward, terminated, truncated, _ = single.step(int(stepped["action"][index]))
            for key, value in after.items():
                assert stepped["next", key][index].tolist() == np.asarray(value).tolist()
            assert stepped["next", "reward"][index].item() == reward
            assert stepped["next", "terminated"][index].item() == terminated
            assert stepped["next", "truncated"][index].item() == truncated
            if terminated or truncated:
                ends.append((terminated, after["observation"], stepped["next", "action_mask"][index].tolist()))
                after, _ = single.reset()
                assert following["observation"][index] == 0
                assert following["action_mask"][index].tolist() == [False, True, True, False]
            nows[index] = after
        td = following
    env.close()
    assert (True, 8, [True] * 4) in ends
    assert any(not terminated and not all(mask) for terminated, _, mask in ends)


def test_masks_stay_with_a_transformed_observation():
    env = make_env(EnvConfig(MAZE, 3), seed=0, transforms=[OneHotObservation()])
    check_env_specs(env)
    rollout = env.rollout(40, break_when_any_done=False)
    assert open_moves(rollout).all()
    assert rollout["observation"].shape == (3, 40, 9)


@pytest.mark.parametrize("name", SPACES)
def test_dicts_of_another_kind_are_refused_in_one_line(name):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(f"tests/Masked{name}-v0", 2))
    assert SPACES[name][1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_needs_discrete_actions():
    with pytest.raises(
        ConfigError,
        match=r"^the action space is Box.*; an action_mask needs Discrete or Multi",
    ):
        make_env(EnvConfig("tests/MaskedBox-v0", 2))


class Ordered(gym.Env):
    """Allows the action (0, 2) only; its mask has the same names as its actions, perhaps in another order."""

    action_space = Dict(arm=Dict(turn=Discrete(3)), move=Discrete(3))

    def __init__(self, flat):
        mask = MultiBinary(6) if flat else Dict(move=MASK, arm=Dict(turn=MASK))
        self.observation_space = Dict(observation=Discrete(2), action_mask=mask)
        turn, move = np.eye(3, dtype=np.int8)[[0, 2]]
        self.mask = np.concatenate([turn, move]) if flat else {"arm": {"turn": turn}, "move": move}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"observation": 0, "action_mask": self.mask}, {}

    def step(self, action):
        assert (action["arm"]["turn"], action["move"]) == (0, 2)
        return {"observation": 0, "action_mask": self.mask}, 1.0, False, False, {}


@pytest.mark.parametrize("flat", [True, False])
def test_parts_of_a_mask_belong_to_the_actions_of_the_same_name(flat):
    env = make_env(EnvConfig(Ordered, 2, kwargs={"flat": flat}, max_episode_steps=4), seed=0)
    assert env.rollout(8, break_when_any_done=False)["next", "reward"].all()
    actions, first = env.full_action_spec, encoder(env.observation_spec)
    network = Network(first, *MLP(first.features, policy_outputs(actions), (4,)))
    actor = stochastic_actor(network, actions, torch.Generator().manual_seed(0), masked=True)
    assert env.rollout(8, actor, break_when_any_done=False)["next", "reward"].all()


SMALL = {"env_id": MAZE, "num_envs": 4, "max_episode_steps": 60, "lr_schedule": "constant"}
ALGORITHMS = {
    "ppo": (ppo, {"rollout_steps": 32, "minibatch_size": 32, "epochs": 2, "entropy_coefficient": 0.01}),
    "a2c": (a2c, {"rollout_steps": 16, "entropy_coefficient": 0.01}),
    "reinforce": (reinforce, {"rollout_steps": 60, "baseline": True, "entropy_coefficient": 0.01}),
    "dqn": (dqn, {"updates": 4, "warmup_frames": 64, "minibatch_size": 32, "epsilon_frames": 200}),
    "dueling dqn": (dqn, {"updates": 4, "warmup_frames": 64, "minibatch_size": 32, "dueling": True, "n_steps": 1}),
    "dueling qr-dqn": (
        qr_dqn,
        {"updates": 4, "warmup_frames": 64, "minibatch_size": 32, "dueling": True, "quantiles": 5},
    ),
    "dqn without replay": (dqn, {"replay": False, "double": False, "target_network": False}),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_learn_in_the_maze_and_never_run_into_a_wall(name):
    module, settings = ALGORITHMS[name]
    pipeline = module.build(module.Config(**SMALL, **settings))
    ended = updates = 0
    for batch, _ in zip(pipeline.collector, range(25), strict=False):
        assert open_moves(batch).all()
        scalars = pipeline.learn(batch)
        assert all(value.isfinite() for value in scalars.values())
        ended += int(batch["next", "terminated"].sum())
        updates += int(scalars["updates"])
    weights = list(pipeline.policy.parameters())
    assert all(weight.isfinite().all() for weight in weights)
    assert ended > 0
    assert updates > 0
    for stochastic in (False, True):
        config = EnvConfig(MAZE, max_episode_steps=60)
        evaluation = evaluate(pipeline.policy, config, episodes=3, seed=0, stochastic=stochastic)
        assert len(evaluation.returns) == 3
    pipeline.close()
