"""Episodes as films: played, drawn by their environment, with the return so far as a caption."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.formatting import figure
from rlpipe.pipelines.collectors.eval_mode import evaluating
from rlpipe.pipelines.collectors.evaluation import EpisodeRecorder
from rlpipe.pipelines.envs import EnvConfig
from rlpipe.pipelines.envs.frozen_transforms import append_frozen, size_for
from rlpipe.pipelines.envs.rendering import Camera, make_drawn, metadata
from rlpipe.pipelines.render.captions import SIZE, Caption
from rlpipe.pipelines.render.film import RATES, Film, new_movie
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

MAX_STEPS = 1_000
"""Steps after which an episode is cut."""
HOLD = 1.0
"""Seconds for which the end of an episode is shown."""


@dataclass(frozen=True)
class Moment:
    """A state of an episode.

    Args:
        image: drawn by the environment, uint8 `[height, width, 3]`.
        episode: from 1.
        step: steps taken so far.
        earned: the return so far.
        last: the episode ends with it, or is cut.
    """

    image: np.ndarray
    episode: int
    step: int
    earned: float
    last: bool


@dataclass(frozen=True)
class Episode:
    """An episode that was played: its return, its steps, and whether it was cut before its end."""

    earned: float
    steps: int
    cut: bool


@dataclass(frozen=True)
class Player:
    """Plays episodes of a policy.

    Args:
        env_config: the environment; one of it is made.
        policy: any TensorDictModule that reads the environment's observation; `None` draws actions at random, among
            the allowed ones.
        seed: of the resets, and of random actions.
        transforms: of the environment that the policy was trained in; they are copied, and do not learn.
        stochastic: sample actions instead of taking the greedy ones.
        episodes: number of episodes.
        max_steps: cuts each episode.
    """

    env_config: EnvConfig
    policy: TensorDictModuleBase | None
    seed: int
    transforms: Sequence[Transform] = ()
    stochastic: bool = False
    episodes: int = 1
    max_steps: int = MAX_STEPS

    def play(self, show: Callable[[Moment], bool], chosen: Callable[[int], bool] = lambda _: True) -> list[Episode]:
        """Play the episodes.

        Args:
            show: called with each moment that is drawn; returns False to stop.
            chosen: whether to draw the state after this many steps; the last one of an episode is always drawn.

        Raises:
            ConfigError: the environment cannot draw an `rgb_array`, or not on this machine.
        """
        with GlobalRandom().kept(Seeds(self.seed).integer("process")), contextlib.ExitStack() as stack:
            env = make_drawn(self.env_config, seed=self.seed, num_envs=size_for(self.transforms, 1))
            stack.callback(env.close)
            append_frozen(env, self.transforms, self.policy)
            kind = ExplorationType.RANDOM if self.stochastic else ExplorationType.DETERMINISTIC
            seed, policy = self.seed, self.policy
            seeded = Seeds(seed).torch_seeded("global") if policy is None else evaluating(policy, seed)
            with seeded, set_exploration_type(kind), torch.inference_mode():
                return self._play(env, Camera.of(env, self.env_config.env_id), show, chosen)

    def _play(
        self, env: TransformedEnv, camera: Camera, show: Callable[[Moment], bool], chosen: Callable[[int], bool]
    ) -> list[Episode]:
        """Play in the first of the environments; a custom transform may need several."""
        episodes: list[Episode] = []
        recorder = EpisodeRecorder(env.base_env, [0] * env.batch_size[0])
        now = env.reset()
        for number in range(1, self.episodes + 1):
            going, steps, earned, done = show(Moment(camera.take(), number, 0, 0.0, False)), 0, 0.0, False
            while going and not done and steps < self.max_steps:
                steps += 1
                camera.armed = chosen(steps)
                step, now = env.step_and_maybe_reset(self._act(env, now))
                done = bool(step.get(("next", "done"))[0])
                earned = float(np.float32(recorder.last["episode_reward"][0]))
                last = done or steps == self.max_steps
                if camera.armed or last:
                    # an environment whose episode is done was reset
                    going = show(Moment(camera.seen if done else camera.take(), number, steps, earned, last))
            episodes.append(Episode(earned, steps, not done))
            if not going:
                break
            if not done:
                now = env.reset()
        return episodes

    def _act(self, env: TransformedEnv, now: TensorDictBase) -> TensorDictBase:
        if self.policy is None:
            return env.rand_action(now)
        device = next((parameter.device for parameter in self.policy.parameters()), torch.device("cpu"))
        return self.policy(now.to(device)).to("cpu")


class Screen(Protocol):
    """Shows a film while it is made."""

    def show(self, image: np.ndarray, seconds: float) -> bool:
        """Show an image for so long; returns False once it is closed."""


@dataclass(frozen=True)
class Recording:
    """A finished film: its images, their size, and the episodes that were played."""

    images: int
    size: tuple[int, int]
    rate: float
    episodes: list[Episode]


def record(
    player: Player,
    path: Path | None,
    *,
    screen: Screen | None = None,
    fps: float | None = None,
    hold: float = HOLD,
    size: int = SIZE,
    progress: Callable[[Moment], None] = lambda _: None,
) -> Recording:
    """Play episodes, and write or show them.

    Args:
        player: plays the episodes.
        path: the new file, `.gif` or `.mp4`.
        screen: where to show them, instead or as well.
        fps: steps a second; by default those of the environment. If a file cannot be so fast, steps are left out.
        hold: seconds for which the end of an episode is shown.
        size: the longest side of the picture, in pixels.
        progress: called with each moment.

    Raises:
        ConfigError: the environment cannot draw an `rgb_array`, or not on this machine, or the file exists.
        RlpipeError: the file cannot be written.
    """
    fps = fps or float(metadata(player.env_config).get("render_fps") or 30)
    rate = min(fps, RATES[".mp4" if path is None else path.suffix.lower()])
    # a quotient of floats would lose steps by rounding
    pace = Fraction(rate) / Fraction(fps)
    with contextlib.ExitStack() as stack:
        cutter = _Cutter(player, path, screen, rate, hold, size, stack, progress)
        episodes = player.play(cutter.show, lambda step: int(step * pace) > int((step - 1) * pace))
    return Recording(cutter.images, cutter.size, rate, episodes)


@dataclass
class _Cutter:
    """Makes a film of moments, see `record`; its file is opened with the first one, which has its size."""

    player: Player
    path: Path | None
    screen: Screen | None
    rate: float
    hold: float
    longest_side: int
    stack: contextlib.ExitStack
    progress: Callable[[Moment], None]
    images: int = 0
    size: tuple[int, int] = (0, 0)
    caption: Caption | None = None
    film: Film | None = None
    shape: tuple[int, ...] = ()

    def show(self, moment: Moment) -> bool:
        """Add a moment; returns False once neither a file nor a screen takes more."""
        if self.caption is None:
            self._begin(moment)
        assert self.caption is not None
        if moment.image.shape != self.shape:
            raise ConfigError(
                f"env-id {self.player.env_config.env_id!r} draws images of several sizes: {list(self.shape)}, and "
                f"{list(moment.image.shape)} at step {moment.step}"
            )
        image = self.caption.draw(moment.image, self._texts(moment))
        ticks = 1 + (round(self.hold * self.rate) if moment.last else 0)
        self.images += 1
        if self.film is not None:
            self.film.add(image, ticks)
        self.progress(moment)
        watched = self.screen is not None and self.screen.show(image, ticks / self.rate)
        return watched or self.film is not None

    def _begin(self, moment: Moment) -> None:
        steps = min(self.player.max_steps, self.player.env_config.max_episode_steps or self.player.max_steps)
        widest = self._texts(replace(moment, episode=self.player.episodes, step=steps, earned=-88_888.8))
        self.shape = moment.image.shape
        self.caption = Caption((self.shape[0], self.shape[1]), widest, self.longest_side)
        self.size = self.caption.size
        if self.path is not None:
            self.film = self.stack.enter_context(new_movie(self.path, self.size, self.rate))

    def _texts(self, moment: Moment) -> tuple[str, ...]:
        texts = (f"return {figure(moment.earned)}", f"step {moment.step}")
        several = self.player.episodes > 1
        return (*texts, f"episode {moment.episode} of {self.player.episodes}") if several else texts
