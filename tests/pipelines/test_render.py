"""Recorded episodes: their frames, the file they go to, and environments that draw none."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from tensordict.nn import TensorDictModule

from rlpipe.errors import ConfigError
from rlpipe.pipelines import render
from rlpipe.pipelines.envs import BinObservation, EnvConfig, make_env
from rlpipe.pipelines.render import record_episode, write_gif

WAY = torch.tensor([1, 1, 2, 0, 2, 3, 0, 1, 0])
CARTPOLE, MAZE = EnvConfig("CartPole-v1", 5), EnvConfig("rlpipe/Maze-v0", 5)


def by_observation(function):
    return TensorDictModule(function, in_keys=["observation"], out_keys=["action"])


def lean(observation):
    """Push towards the side that the pole leans to, which keeps it up for a while."""
    return (observation[..., 2] + observation[..., 3] > 0).long()


class Silent(type(gym.make("tests/Counter-v0").unwrapped)):
    """A counter that knows the argument, and no render mode."""

    def __init__(self, render_mode=None) -> None:
        super().__init__()
        self.render_mode = render_mode


class Words(Silent):
    metadata = {"render_modes": ["ansi"]}


class Dark(Silent):
    """It would draw, but there is no display."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def render(self):
        raise OSError("no display here\nand more lines")


class Black(Dark):
    def render(self):
        return np.full((8, 8, 3), self._steps, np.uint8)


for kind in (Silent, Words, Dark, Black):
    gym.register(f"tests/{kind.__name__}-v0", kind)


def test_the_maze_is_drawn_in_every_state_of_the_way():
    frames, fps = record_episode(by_observation(lambda cell: WAY[cell]), MAZE, seed=0)
    assert len(frames) == 6
    assert fps == 4
    assert all(frame.shape == (240, 240, 3) and frame.dtype == np.uint8 for frame in frames)
    single = gym.make("rlpipe/Maze-v0", render_mode="rgb_array")
    single.reset()
    for frame, move in zip(frames, [1, 1, 2, 3, 2, 1], strict=True):
        assert np.array_equal(frame, single.render())
        single.step(move)


def test_cartpole_is_drawn_as_often_as_its_episode_has_steps():
    policy = by_observation(lean)
    frames, fps = record_episode(policy, CARTPOLE, seed=3)
    assert fps == 50
    assert frames[0].shape == (400, 600, 3)
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[-1])
    shorter, _ = record_episode(policy, EnvConfig("CartPole-v1", max_episode_steps=7), seed=3)
    assert len(shorter) == 7
    single, steps, done = gym.make("CartPole-v1"), 0, False
    observation, _ = single.reset(seed=int(np.random.SeedSequence(3).generate_state(1)[0]))
    while not done:
        action = int(lean(torch.from_numpy(observation)))
        observation, _, terminated, truncated, _ = single.step(action)
        steps, done = steps + 1, terminated or truncated
    assert len(frames) == steps > 7


def test_an_episode_is_recorded_through_the_policys_transforms():
    bins, seen = BinObservation(2, [-5.0] * 4, [5.0] * 4), []
    make_env(CARTPOLE, transforms=[bins])
    policy = by_observation(lambda cell: seen.append(cell) or cell % 2)
    record_episode(policy, CARTPOLE, seed=0, transforms=[bins])
    assert all(cell.dtype == torch.int64 and cell.shape == (1,) for cell in seen)


def test_the_recording_ends_even_if_the_episode_does_not(monkeypatch):
    monkeypatch.setattr(render, "MAX_FRAMES", 5)
    frames, _ = record_episode(by_observation(lean), EnvConfig("CartPole-v1"), seed=0)
    assert len(frames) == 5


def test_the_gif_has_the_frames(tmp_path):
    frames, fps = record_episode(by_observation(lambda cell: WAY[cell]), MAZE, seed=0)
    write_gif(tmp_path / "maze.gif", frames, fps)
    with Image.open(tmp_path / "maze.gif") as image:
        assert (image.format, image.n_frames, image.size) == ("GIF", 6, (240, 240))
        assert image.info["duration"] == 250
        assert image.info["loop"] == 0
        for index, frame in enumerate(frames):
            image.seek(index)
            drawn = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(drawn - frame).mean() < 3


def test_fast_episodes_keep_their_speed_with_fewer_frames(tmp_path):
    frames = [np.full((8, 8, 3), 20 * index, np.uint8) for index in range(10)]
    write_gif(tmp_path / "fast.gif", frames, 100.0)
    with Image.open(tmp_path / "fast.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (5, 20)


def test_a_file_is_never_overwritten(tmp_path):
    path = tmp_path / "there.gif"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"there.gif exists already; nothing was overwritten"):
        write_gif(path, [np.zeros((8, 8, 3), np.uint8)], 30.0)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("tests/Counter-v0", "draws no images: it has no render mode at all"),
        ("tests/Silent-v0", "draws no images: it has no render mode at all"),
        ("tests/Words-v0", "draws no images: it has only ansi, and a GIF needs rgb_array"),
        ("tests/Dark-v0", "cannot be drawn here: no display here"),
    ],
)
def test_environments_that_draw_nothing_are_refused_in_one_line(env_id, message):
    policy = by_observation(lambda observation: torch.zeros(len(observation), dtype=torch.int64))
    with pytest.raises(ConfigError) as caught:
        record_episode(policy, EnvConfig(env_id), seed=0)
    assert message in str(caught.value)
    assert repr(env_id) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_render_mode_is_passed_on():
    env = make_env(EnvConfig("tests/Black-v0", 2), render_mode="rgb_array")
    env.reset()
    assert [frame.shape for frame in env.base_env.envs.render()] == [(8, 8, 3)] * 2
    env.close()
