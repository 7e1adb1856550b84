"""An episode as a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import Transform
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs import EnvConfig, make_env

MAX_FRAMES = 1_000
"""Where a recording ends, if its episode does not."""


def record_episode(
    policy: TensorDictModuleBase, env_config: EnvConfig, *, seed: int, transforms: Sequence[Transform] = ()
) -> tuple[list[np.ndarray], float]:
    """Run one greedy episode and draw each state in which an action is taken.

    Args:
        policy: any TensorDictModule that reads the environment's observation.
        env_config: the environment; one of it is made.
        seed: of its reset.
        transforms: of the environment that the policy was trained in.

    Returns:
        Frames, uint8 `[height, width, 3]` each, at most `MAX_FRAMES`; and frames a second.

    Raises:
        ConfigError: the environment draws no `rgb_array`, or not on this machine.
    """
    one = replace(env_config, num_envs=1, backend="sync")
    check_drawable(one)
    env = make_env(one, seed=seed, transforms=[each.clone() for each in transforms], render_mode="rgb_array")
    device = next((parameter.device for parameter in policy.parameters()), torch.device("cpu"))
    frames: list[np.ndarray] = []
    try:
        envs = env.base_env.envs
        with set_exploration_type(ExplorationType.DETERMINISTIC), torch.inference_mode():
            now = env.reset()
            while len(frames) < MAX_FRAMES:
                frames += _draw(envs, env_config.env_id)
                step, now = env.step_and_maybe_reset(policy(now.to(device)).to("cpu"))
                if step.get(("next", "done")).all():
                    break
        return frames, float(envs.metadata.get("render_fps") or 30)
    finally:
        env.close()


def check_drawable(env_config: EnvConfig) -> None:
    """Draw one image of an environment, to learn whether it can be done.

    Raises:
        ConfigError: it has no render mode for images, or this machine cannot draw them.
    """
    one = replace(env_config, num_envs=1, backend="sync")
    env = make_env(one)
    modes = env.base_env.envs.metadata.get("render_modes", [])
    env.close()
    if "rgb_array" not in modes:
        has = f"only {', '.join(modes)}" if modes else "no render mode at all"
        raise ConfigError(f"env-id {env_config.env_id!r} draws no images: it has {has}, and a GIF needs rgb_array")
    env = make_env(one, render_mode="rgb_array")
    try:
        env.reset()
        _draw(env.base_env.envs, env_config.env_id)
    finally:
        env.close()


def _draw(envs: Any, env_id: str) -> list[np.ndarray]:
    try:
        return list(envs.render())
    except Exception as error:  # each environment has its own, such as for a display that is missing
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"env-id {env_id!r} cannot be drawn here: {reason}") from error


def write_gif(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write frames `[height, width, 3]` as a GIF that repeats.

    Raises:
        ConfigError: there is a file already.
    """
    from PIL import Image  # noqa: PLC0415 - only needed here

    if path.exists():
        raise ConfigError(f"{path} exists already; nothing was overwritten")
    # GIF viewers slow down anything shorter than 20 ms a frame
    keep = max(1, round(fps / 50))
    images = [Image.fromarray(frame).quantize(64) for frame in frames[::keep]]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 * keep / fps), loop=0)
