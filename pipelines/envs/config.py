"""`EnvConfig`: which environment, and how many copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.backends.choice import WITHOUT_IMAGES, Backend

if TYPE_CHECKING:
    import gymnasium as gym


@dataclass(frozen=True)
class EnvConfig:
    """What `make_env` builds.

    Args:
        env_id: a Gymnasium id; or an environment's class, which need not be registered.
        num_envs: how many environments step together.
        backend: `auto` uses the environment's own vectorised implementation if rlpipe knows it to be correct, else
            `sync`, which steps one after the other; `async` steps each in its own process; `envpool` steps its
            environments in C++, on threads, and needs the extra of that name.
        max_episode_steps: truncate episodes here instead of at the environment's own limit.
        from_pixels: observe the last four rendered images in grey, uint8 `[4, 84, 84]`, instead of the environment's
            own observation; an action mask is kept.

    Raises:
        ConfigError: a value that is not allowed.
    """

    env_id: str | type[gym.Env]
    num_envs: int = 1
    backend: Backend = "auto"
    max_episode_steps: int | None = None
    from_pixels: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.env_id, str) and not callable(self.env_id):
            raise ConfigError(f"env_id is {self.env_id!r}; expected a Gymnasium id, or an environment's class")
        if self.backend not in get_args(Backend):
            raise ConfigError(f"backend is {self.backend!r}; allowed are {', '.join(get_args(Backend))}")
        for name, value in (("num_envs", self.num_envs), ("max_episode_steps", self.max_episode_steps)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} is {value!r}; allowed is a whole number, 1 or more")
        if type(self.from_pixels) is not bool:
            raise ConfigError(f"from_pixels is {self.from_pixels!r}; allowed are True and False")
        if self.from_pixels and self.backend in WITHOUT_IMAGES:
            raise ConfigError(f"from_pixels is True, and backend {self.backend!r} draws nothing; 'sync' and 'async' do")
