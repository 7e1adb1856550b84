"""Environments observed through their pictures: what is observed, on which backends, and who cannot be."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from PIL import Image

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.algorithms import a2c, dqn, ppo, q_learning
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.backends.pixel_observation import PixelObservation, shrink
from rlpipe.pipelines.envs.rendering import make_drawn
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.scripts.main import run

MAZE = "rlpipe/Maze-v0"


class Broken(gym.Env):
    """Draws for a while."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}
    observation_space, action_space = Box(0, 1, (2,)), Discrete(2)

    def __init__(self, render_mode=None, good=3) -> None:
        self.render_mode, self.left = render_mode, good

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self):
        self.left -= 1
        return np.zeros((40, 40, 3) if self.left >= 0 else (40, 40), np.uint8)


class Blind(Broken):
    """Has another render mode, and takes none."""

    metadata = {"render_modes": ["ansi"]}

    def __init__(self) -> None:
        super().__init__()


gym.register("tests/Breaking-v0", Broken)
gym.register("tests/BrokenPictures-v0", Broken, kwargs={"good": 0})
gym.register("tests/Blind-v0", Blind)


HIDDEN = {
    "dict": Dict(image=Box(0, 255, (7, 7, 3), np.uint8), direction=Discrete(4)),
    "nested": Dict(goal=Dict(at=Box(-1, 1, (2,)))),
    "text": Text(5),
    "tuple": Tuple((Discrete(2), Box(-1, 1, (2,)))),
    "empty": Box(0, 1, (0,)),
}


class Hidden(gym.Env):
    """Observes what no network takes, and draws."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}
    action_space = Discrete(2)

    def __init__(self, space, render_mode=None) -> None:
        self.observation_space, self.render_mode = space, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time >= 8, False, {}

    def render(self):
        return np.full((64, 64, 3), self.time * 20, np.uint8)


for name, space in HIDDEN.items():
    gym.register(f"tests/Hidden-{name}-v0", Hidden, kwargs={"space": space})


@pytest.mark.parametrize("name", HIDDEN)
def test_pictures_hide_an_observation_of_any_space(tmp_path, name):
    small = {"total_frames": 32, "num_envs": 2, "rollout_steps": 16, "minibatch_size": 32, "hidden": (8,)}
    options = {"env_id": f"tests/Hidden-{name}-v0", "from_pixels": True, "final_eval_episodes": 1, "epochs": 1}
    summary = run_recipe("ppo", folder=tmp_path / "run", loggers=(), gif=name == "dict", **small, **options)
    assert summary["evaluation"]["mean"] == 8.0


@pytest.mark.parametrize("shape", [(84, 84), (400, 600), (210, 160), (24, 31), (85, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_is_shrunk_by_the_areas_of_its_pixels(shape, turned):
    height, width = shape
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if turned:
        picture = np.ascontiguousarray(picture.transpose(1, 0, 2)).transpose(1, 0, 2)
    small = shrink(picture)
    assert (small.shape, small.dtype) == ((84, 84), np.uint8)
    # one axis after the other, each pixel divided so finely that the new edges fall between the parts
    grey = picture @ np.array([0.299, 0.587, 0.114])
    for _ in range(2):
        grey = grey.repeat(84, 0).reshape(84, -1, grey.shape[1]).mean(1).T
    assert np.abs(small - grey).max() <= 0.5 + 1e-6


def test_white_is_white():
    assert (shrink(np.full((500, 333, 3), 255, np.uint8)) == 255).all()


def drawn(env):
    return shrink(env.render())


@pytest.mark.parametrize("backend", ["auto", "async"])
def test_pictures_are_stacked_and_the_last_one_of_an_episode_is_kept(backend):
    env = make_env(EnvConfig(MAZE, 2, backend, max_episode_steps=6, from_pixels=True), seed=0)
    singles = [gym.make(MAZE, render_mode="rgb_array", max_episode_steps=6) for _ in range(2)]
    rng, stacks, ended = np.random.default_rng(1), [], 0
    for single in singles:
        single.reset()
        stacks.append([drawn(single)] * 4)
    now = env.reset()
    assert env.observation_spec["observation"].shape == (2, 4, 84, 84)
    assert env.observation_spec["observation"].dtype == torch.uint8
    for _ in range(15):
        assert torch.equal(now["observation"], torch.from_numpy(np.array(stacks)))
        actions = [int(rng.choice(np.flatnonzero(mask))) for mask in now["action_mask"].numpy()]
        step, now = env.step_and_maybe_reset(now.set("action", torch.tensor(actions)))
        for index, (single, action) in enumerate(zip(singles, actions, strict=True)):
            observation, reward, terminated, truncated, _ = single.step(action)
            stacks[index] = [*stacks[index][1:], drawn(single)]
            after = step["next"][index]
            assert torch.equal(after["observation"], torch.from_numpy(np.array(stacks[index])))
            assert after["action_mask"].tolist() == observation["action_mask"].tolist()
            assert (after["reward"], after["terminated"], after["truncated"]) == (reward, terminated, truncated)
            if terminated or truncated:
                ended += 1
                single.reset()
                stacks[index] = [drawn(single)] * 4
    env.close()
    assert ended > 2


def test_cartpole_is_seen_and_keeps_its_returns():
    pixels, states = (
        make_env(EnvConfig("CartPole-v1", 2, "sync", max_episode_steps=20, from_pixels=flag), seed=3)
        for flag in (True, False)
    )
    action = torch.tensor([1, 0])
    seen, known, moved = pixels.reset(), states.reset(), []
    for _ in range(12):
        step, seen = pixels.step_and_maybe_reset(seen.set("action", action))
        other, known = states.step_and_maybe_reset(known.set("action", action))
        for key in ("done", "reward", "episode_reward", "step_count"):
            assert torch.equal(step["next", key], other["next", key])
        newest, before = step["next", "observation"][:, 3], step["next", "observation"][:, 2]
        moved.append((newest != before).flatten(1).any(1))
    # after an episode's first steps, which may be less than a pixel
    assert sum(moved).min() > 6
    assert other["next", "episode_reward"].max() < 12
    pixels.close(), states.close()


def test_the_true_picture_is_drawn():
    env = make_drawn(EnvConfig(MAZE, 4, from_pixels=True), seed=0)
    assert env.reset()["observation"].shape == (1, 4, 84, 84)
    assert env.base_env.envs.envs[0].render().shape == (240, 240, 3)
    env.close()


@pytest.mark.parametrize(("env_id", "kept"), [(MAZE, True), ("FrozenLake-v1", False)])
def test_what_a_checkpoint_keeps(env_id, kept):
    env = make_env(EnvConfig(env_id, 1, from_pixels=True), seed=0).base_env
    env.restart()
    assert env.can_capture() is kept
    if kept:
        env.advance(np.array([1]))
        state = env.get_state()
        with pytest.raises(ValueError, match="pictures"):
            env.set_state({**state, "envs": {"each": [{**state["envs"]["each"][0], "pictures": [np.zeros(3)]}]}})
        first = [env.advance(np.array([move]))["observation"] for move in (3, 2)]
        env.set_state(state)
        assert np.array_equal(first, [env.advance(np.array([move]))["observation"] for move in (3, 2)])
    env.close()


SMALL = {"from_pixels": True, "num_envs": 2, "rollout_steps": 8, "total_frames": 16, "hidden": (8,)}
PPO = {**SMALL, "minibatch_size": 16}


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        (ppo, {"env_id": "tests/Blind-v0"}, "draws no images: it has only ansi, and --from-pixels needs rgb_array"),
        (ppo, {"env_id": "tests/Identity-v0"}, "it has no render mode at all, and --from-pixels needs rgb_array"),
        (ppo, {"env_id": "tests/BrokenPictures-v0"}, r"gave uint8 \[40, 40\], expected uint8 \[height, width, 3\]"),
        (
            ppo,
            {"env_id": "CartPole-v1", "eval_env_id": "tests/BrokenPictures-v0"},
            "'tests/BrokenPictures-v0' draws no images",
        ),
        (ppo, {"env_id": "Pendulum-v1", "eval_env_id": "CartPole-v1"}, "whose spaces are not those of"),
        (ppo, {"backend": "envpool"}, "from_pixels is True, and backend 'envpool' draws nothing"),
        (ppo, {"reward_shaping": "balance"}, "reward_shaping is 'balance', which reads CartPole's own observation"),
        (ppo, {"normalize_observation": True}, "normalize_observation is True, but the network divides pixels by 255"),
        (ppo, {"observation_scale": (255.0,)}, "observation_scale is given, and the observation is an image"),
        (dqn, {"buffer_size": 10**9}, "buffer_size is 1000000000, which takes 56"),
    ],
)
def test_what_cannot_be_trained_from_pixels(module, changes, message):
    settings = {**(PPO if module is ppo else SMALL), **changes}
    with pytest.raises(ConfigError, match=message):
        module.build(module.Config(**settings, **({"warmup_frames": 16} if module is dqn else {})))


def test_tables_and_windows_take_no_pictures():
    with pytest.raises(ConfigError, match="from_pixels is True, but a table cannot use images"):
        q_learning.Config(from_pixels=True)
    with pytest.raises(ConfigError, match="render_mode is 'human'; an environment with from_pixels has rgb_array"):
        make_env(EnvConfig("CartPole-v1", from_pixels=True), render_mode="human")
    with pytest.raises(ConfigError, match="from_pixels is 1; allowed are True and False"):
        EnvConfig("CartPole-v1", from_pixels=1)
    assert TrainConfig(from_pixels=True).eval_env.from_pixels


def test_a_drawing_that_fails_later_is_told_with_its_step():
    env = make_env(EnvConfig("tests/Breaking-v0", 2, from_pixels=True), seed=0)
    with pytest.raises(
        TrainingError, match=r"environment 0 of 2 \(tests/Breaking-v0\) failed in step 3: .* gave uint8"
    ):
        env.rollout(3)
    env.close()


def test_a_run_from_pixels(tmp_path):
    folder = tmp_path / "run"
    options = {**SMALL, "env_id": MAZE, "max_episode_steps": 9, "reward_shaping": "fall", "shared_trunk": True}
    short = {"total_frames": 32, "eval_every": 16, "eval_episodes": 1, "final_eval_episodes": 2}
    summary = run_recipe("a2c", folder=folder, loggers=(), gif=True, **{**options, **short})
    assert 0.0 <= summary["evaluation"]["mean"] <= 1.0
    with Image.open(folder / "agent.gif") as gif:
        colors = np.asarray(gif.convert("RGB"))[:400].astype(int)
    # the agent is blue
    assert (colors[..., 2] - colors[..., 0]).max() > 100
    assert run(["evaluate", str(folder), "--episodes", "2", "--json"]) == 0
    assert run(["render", str(folder), "--out", str(tmp_path / "again.gif"), "--quiet"]) == 0
    assert (tmp_path / "again.gif").read_bytes() == (folder / "agent.gif").read_bytes()


def test_each_algorithm_learns_from_pixels():
    for module in (ppo, dqn, a2c):
        settings = {**SMALL, "env_id": MAZE, "minibatch_size": 16, "warmup_frames": 16, "n_steps": 1, "buffer_size": 64}
        fields = module.Config.__dataclass_fields__
        pipeline = module.build(module.Config(**{name: each for name, each in settings.items() if name in fields}))
        before = [each.clone() for each in pipeline.policy.parameters()]
        pipeline.learn(next(iter(pipeline.collector)))
        assert all(not torch.equal(one, other) for one, other in zip(before, pipeline.policy.parameters(), strict=True))
        pipeline.close()


def test_the_wrapper_alone():
    env = PixelObservation(gym.make("FrozenLake-v1", render_mode="rgb_array"))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert (observation == observation[0]).all()
    env.close()
