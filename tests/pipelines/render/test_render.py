"""Films of episodes: what is drawn when, the files they go to, and environments that draw none."""

import errno
import os
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from tensordict.nn import TensorDictModule

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.pipelines.checkpoints.durable_files import publish
from rlpipe.pipelines.envs import BinObservation, EnvConfig, make_env
from rlpipe.pipelines.envs.rendering import check_drawable
from rlpipe.pipelines.render.captions import Caption
from rlpipe.pipelines.render.film import check_movie, new_movie
from rlpipe.pipelines.render.player import Player, record

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


class Grey(Dark):
    def render(self):
        return np.zeros((8, 8), np.uint8)


class Growing(Dark):
    def render(self):
        return np.zeros((8 + self._steps, 8, 3), np.uint8)


class Watcher:
    """A screen that somebody looks at, in no time."""

    def show(self, image, seconds):
        return True


for kind in (Silent, Words, Dark, Black, Grey, Growing):
    gym.register(f"tests/{kind.__name__}-v0", kind)


def play(player, chosen=lambda _: True):
    moments = []
    return player.play(lambda moment: moments.append(moment) or True, chosen), moments


def follow(env_id, actions):
    """What an environment of its own draws, before and after each action."""
    single = gym.make(env_id, render_mode="rgb_array")
    single.reset()
    images = [single.render()]
    for action in actions:
        single.step(action)
        images.append(single.render())
    return images


def read_gif(path):
    with Image.open(path) as image:
        assert (image.format, image.info["loop"]) == ("GIF", 0)
        images, durations = [], []
        for index in range(image.n_frames):
            image.seek(index)
            images.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return images, durations


MAZE_WALKER = by_observation(lambda cell: WAY[cell])


def test_every_state_is_drawn_the_last_one_included():
    episodes, moments = play(Player(MAZE, MAZE_WALKER, 0, episodes=2))
    assert [(each.earned, each.steps, each.cut) for each in episodes] == [(1.0, 6, False)] * 2
    expected = follow("rlpipe/Maze-v0", [1, 1, 2, 3, 2, 1]) * 2
    assert all(np.array_equal(moment.image, image) for moment, image in zip(moments, expected, strict=True))
    assert [(each.episode, each.step) for each in moments] == [(n, step) for n in (1, 2) for step in range(7)]
    assert [each.earned for each in moments] == [0, 0, 0, 0, 0, 0, 1] * 2
    assert [each.last for each in moments] == ([False] * 6 + [True]) * 2


def test_an_episode_is_that_of_the_environment_alone():
    episodes, moments = play(Player(CARTPOLE, by_observation(lean), 3))
    single, steps, done = gym.make("CartPole-v1"), 0, False
    observation, _ = single.reset(seed=int(np.random.SeedSequence(3).generate_state(1)[0]))
    while not done:
        action = int(lean(torch.from_numpy(observation)))
        observation, _, terminated, truncated, _ = single.step(action)
        steps, done = steps + 1, terminated or truncated
    assert [(each.earned, each.steps) for each in episodes] == [(steps, steps)]
    assert len(moments) == steps + 1 > 8


def test_an_episode_is_cut_where_it_does_not_end():
    episodes, moments = play(Player(CARTPOLE, by_observation(lean), 0, episodes=2, max_steps=5))
    assert [(each.steps, each.cut) for each in episodes] == [(5, True)] * 2
    assert [each.step for each in moments] == [0, 1, 2, 3, 4, 5] * 2
    assert [each.last for each in moments] == ([False] * 5 + [True]) * 2
    # and the next one begins anew
    assert not np.array_equal(moments[5].image, moments[6].image)


def test_an_episode_is_played_through_the_policys_transforms():
    bins, seen = BinObservation(2, [-5.0] * 4, [5.0] * 4), []
    make_env(CARTPOLE, transforms=[bins])
    policy = by_observation(lambda cell: seen.append(cell) or cell % 2)
    play(Player(CARTPOLE, policy, 0, transforms=[bins]))
    assert all(cell.dtype == torch.int64 and cell.shape == (1,) for cell in seen)


def test_a_random_agent_takes_allowed_actions_only_and_repeats_itself():
    # the maze raises ForbiddenActionError for any other
    ways = [play(Player(MAZE, None, seed, episodes=3, max_steps=60))[0] for seed in (1, 1, 2)]
    assert ways[0] == ways[1] != ways[2]


def test_sampled_actions_follow_the_seed():
    from rlpipe.modules import CategoricalActor

    env = make_env(EnvConfig("CartPole-v1"))
    torch.manual_seed(0)
    actor = CategoricalActor(torch.nn.Linear(4, 2), env.action_spec)
    lengths = [play(Player(CARTPOLE, actor, seed, stochastic=True, episodes=3))[0] for seed in (1, 1, 2)]
    assert lengths[0] == lengths[1] != lengths[2]


def test_the_gif_shows_each_state_for_its_time_and_the_return_below(tmp_path):
    recording = record(Player(MAZE, MAZE_WALKER, 0), tmp_path / "maze.gif")
    images, durations = read_gif(tmp_path / "maze.gif")
    assert durations == [250] * 6 + [1250]
    assert (recording.images, recording.size) == (7, images[0].shape[1::-1])
    caption = Caption((240, 240), ("return -88888.8", "step 500"))
    for step, (image, drawn) in enumerate(zip(follow("rlpipe/Maze-v0", [1, 1, 2, 3, 2, 1]), images, strict=True)):
        # 17 colours need no reduction, but letters have soft edges
        assert np.array_equal(drawn[:480, :480], image.repeat(2, 0).repeat(2, 1))
        expected = caption.draw(image, ("return 1.00" if step == 6 else "return 0.00", f"step {step}"))
        assert np.abs(drawn.astype(int) - expected).max() <= 40
        other = caption.draw(image, ("return 2.00", f"step {step}"))
        assert np.abs(drawn.astype(int) - other).max() > 100


@pytest.mark.parametrize(
    ("fps", "images", "ticks"),
    [(None, 8, 2 * 7), (30.0, 8, round(700 / 30)), (15.0, 8, round(700 / 15)), (125.0, 4, 2 * 3), (1000.0, 2, 2)],
)
def test_the_speed_is_true_whatever_the_file_can_show(tmp_path, fps, images, ticks):
    path = tmp_path / "fast.gif"
    record(Player(CARTPOLE, by_observation(lean), 3, max_steps=7), path, fps=fps, hold=0.0, size=64)
    _, durations = read_gif(path)
    assert len(durations) == images
    assert all(duration >= 20 for duration in durations)
    # the last state is there for a moment as well
    assert abs(sum(durations[:-1]) - 10 * ticks) <= 10


def test_a_slow_film_shows_every_step(tmp_path):
    recording = record(Player(MAZE, None, 1, max_steps=60), None, screen=Watcher(), fps=0.7, hold=0.0)
    assert recording.images == recording.episodes[0].steps + 1 > 10


def test_a_long_film_does_not_drift(tmp_path):
    with new_movie(tmp_path / "long.gif", (4, 4), 30.0) as film:
        for index in range(300):
            film.add(np.full((4, 4, 3), index % 7, np.uint8), 1)
    _, durations = read_gif(tmp_path / "long.gif")
    assert sum(durations) == 10_000


def test_many_colours_are_reduced_and_what_stays_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) // 2 + np.linspace(0, 127, 80, dtype=np.uint8)[:, None]
    second = first.copy()
    second[10:20, 30:50] = (250, 10, 10)
    with new_movie(tmp_path / "a.gif", (80, 60), 10.0) as film:
        for image in (first, second, second, first):
            film.add(image, 1)
    images, durations = read_gif(tmp_path / "a.gif")
    assert durations == [100] * 4
    assert all(np.abs(image.astype(int) - first).mean() < 25 for image in (images[0], images[3]))
    assert (images[1][10:20, 30:50] == (250, 10, 10)).all()
    unchanged = np.ones((60, 80), bool)
    unchanged[10:20, 30:50] = False
    assert np.array_equal(images[1][unchanged], images[0][unchanged])
    assert np.array_equal(images[1], images[2])


def test_the_same_seed_gives_the_same_file(tmp_path):
    files = [tmp_path / f"{name}.gif" for name in "abc"]
    for path, seed in zip(files, (1, 1, 2), strict=True):
        record(Player(CARTPOLE, None, seed, max_steps=10), path, size=120)
    one, two, three = (path.read_bytes() for path in files)
    assert one == two != three


def test_the_mp4_has_all_frames(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "maze.mp4"
    record(Player(MAZE, MAZE_WALKER, 0), path)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    # the last one stays for a second, which is four frames
    assert (frames, round(seconds, 2)) == (11, 2.75)
    reader = imageio_ffmpeg.read_frames(str(path))
    assert next(reader)["size"] == (480, 506)
    first = np.frombuffer(next(reader), np.uint8).reshape(506, 480, 3)
    reader.close()
    expected = follow("rlpipe/Maze-v0", [])[0].repeat(2, 0).repeat(2, 1)
    assert np.abs(first[:480].astype(int) - expected).mean() < 3
    assert [each.name for each in tmp_path.iterdir()] == ["maze.mp4"]


@pytest.mark.parametrize("rate", [0.1, 0.7, 7.3, 29.97, 60.0])
@pytest.mark.parametrize("images", [1, 2, 40])
def test_an_mp4_is_whole_at_any_rate(tmp_path, rate, images):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    with new_movie(tmp_path / "a.mp4", (16, 16), rate) as film:
        for index in range(images):
            film.add(np.full((16, 16, 3), index, np.uint8), 1)
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[0] == images


def test_an_mp4_that_lacks_images_gets_no_name(tmp_path, monkeypatch):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda _: (2, 0.2))
    with (
        pytest.raises(RlpipeError, match=r"a.mp4 cannot be written: ffmpeg left 2 of 3 images$"),
        new_movie(tmp_path / "a.mp4", (16, 16), 10.0) as film,
    ):
        film.add(np.zeros((16, 16, 3), np.uint8), 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "shape", [(240, 240), (8, 8), (1, 1), (400, 600), (210, 160), (1000, 10), (10, 1000), (600, 600)]
)
@pytest.mark.parametrize("texts", [("return -88888.8", "step 1000"), ("return 1.00", "step 3", "episode 1000 of 1000")])
def test_a_caption_is_legible_at_every_size(shape, texts):
    caption = Caption(shape, texts)
    image = np.full((*shape, 3), 200, np.uint8)
    drawn = caption.draw(image, texts)
    assert drawn.shape == (*caption.size[::-1], 3)
    assert all(side % 2 == 0 for side in caption.size)
    assert max(caption.size) <= 480 + 4 * 22
    band = drawn[-(drawn.shape[0] - caption._scaled[1]) :]
    assert (band[:, -1] == band[0, -1]).all(), "a text runs out of the picture"
    # each text changes pixels of its own
    for index in range(len(texts)):
        without = tuple("" if index == other else text for other, text in enumerate(texts))
        assert (caption.draw(image, without) != drawn).any(-1).sum() > 40
    scale = max(caption._scaled) / max(shape)
    assert scale == int(scale) or scale < 1


def test_a_file_is_never_overwritten(tmp_path):
    path = tmp_path / "there.gif"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"there.gif exists already; nothing was overwritten"):
        record(Player(MAZE, MAZE_WALKER, 0), path)
    assert path.read_text() == "mine"


def test_nor_is_one_that_came_while_the_film_was_made(tmp_path):
    path = tmp_path / "late.gif"
    player = Player(MAZE, MAZE_WALKER, 0)
    with pytest.raises(ConfigError, match=r"late.gif exists already; nothing was overwritten"):
        record(player, path, progress=lambda _: path.write_text("mine"))
    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["late.gif"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_no_name_that_is_taken(tmp_path, monkeypatch, links):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr("os.link", link)
    # as if the name were taken just after somebody looked
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    stage, path = tmp_path / ".stage", tmp_path / "film.gif"
    stage.write_text("film")
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"film.gif exists already; nothing was overwritten, name a new one"):
        publish(stage, path)
    assert (path.read_text(), stage.read_text()) == ("mine", "film")
    publish(stage, tmp_path / "other.gif")
    assert (tmp_path / "other.gif").read_text() == "film"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["film.gif", "other.gif"]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_what_is_interrupted_leaves_nothing(tmp_path, suffix):
    seen = []

    def interrupt(moment):
        seen.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(Player(MAZE, MAZE_WALKER, 0), tmp_path / f"a{suffix}", progress=interrupt)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r'out ends in .mp4, which needs an extra: pip install "rlpipe\[video\]"'):
        check_movie(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("tests/Counter-v0", "draws no images: it has no render mode at all"),
        ("tests/Silent-v0", "draws no images: it has no render mode at all"),
        ("tests/Words-v0", "draws no images: it has only ansi, and a GIF needs rgb_array"),
        ("tests/Dark-v0", "cannot be drawn here: no display here"),
        ("tests/Grey-v0", "draws no images: render() gave uint8 [8, 8], expected uint8 [height, width, 3]"),
    ],
)
def test_environments_that_draw_nothing_are_refused_in_one_line(env_id, message):
    with pytest.raises(ConfigError) as caught:
        check_drawable(EnvConfig(env_id))
    assert message in str(caught.value)
    assert repr(env_id) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "MUJOCO_GL" not in str(caught.value)


def test_what_opengl_needs_is_said_for_an_environment_of_mujocos_alone():
    pytest.importorskip("mujoco")
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

    class Unseen(InvertedPendulumEnv):
        def render(self):
            raise OSError("no OpenGL here")

    with pytest.raises(ConfigError, match=r"cannot be drawn here: no OpenGL here; MUJOCO_GL is \w+: without a display"):
        check_drawable(EnvConfig(Unseen))


def test_without_a_display_sdl_is_told_so(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "MUJOCO_GL"):
        # set first, so that what is set by the code is taken back as well
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    check_drawable(CARTPOLE)
    assert [os.environ.get(f"SDL_{kind}DRIVER") for kind in ("VIDEO", "AUDIO")] == ["dummy", "dummy"]


def test_images_of_several_sizes_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"draws images of several sizes: \[8, 8, 3\], and \[9, 8, 3\] at step 1"):
        record(Player(EnvConfig("tests/Growing-v0"), None, 0), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_render_mode_is_passed_on():
    env = make_env(EnvConfig("tests/Black-v0", 2), render_mode="rgb_array")
    env.reset()
    assert [frame.shape for frame in env.base_env.envs.render()] == [(8, 8, 3)] * 2
    env.close()
