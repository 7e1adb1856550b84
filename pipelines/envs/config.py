"""`EnvConfig`: which environment, and how many copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.arguments.given import name_env
from rlpipe.pipelines.envs.arguments.names import Arguments, as_arguments
from rlpipe.pipelines.envs.arguments.wrapping import wrapper_names
from rlpipe.pipelines.envs.backends.choice import WITHOUT_IMAGES, WITHOUT_INFOS, Backend
from rlpipe.pipelines.envs.infos.keys import parse_keys
from rlpipe.spelling import did_you_mean

MOST_STACKED = 1_000
MOST_REPEATS = 10_000
_ELSEWHERE = {"env": "env_id", "env_kwargs": "kwargs", "wrapper": "wrappers"}
"""Names of `rlpipe.train`, and of this class."""


@dataclass(frozen=True)
class EnvConfig:
    """What `make_env` builds.

    From the inside out, an environment has its own time limit, its `wrappers` in order, action repeat, pixels, frame
    stack and the remaining time.

    Args:
        env_id: a Gymnasium id, `module:Env-v0` to import the module that registers it, or `module:name`, a class or
            function there; or the class itself, a function that makes an environment, a spec, or an instance, which is
            copied. What is not text is held as a text that names it.
        num_envs: how many environments step together.
        backend: `auto` uses the environment's own vectorised implementation if rlpipe knows it to be correct, else
            `sync`, which steps one after the other; `async` steps each in its own process; `envpool` steps its
            environments in C++, on threads, and needs the extra of that name.
        max_episode_steps: truncate episodes here instead of at the environment's own limit; in the environment's steps,
            of which an action takes `action_repeat`. An instance, and what a function makes, keep a limit of their own
            beside this one.
        from_pixels: observe the last four rendered images in grey, uint8 `[4, 84, 84]`, instead of the environment's
            own observation; an action mask is kept.
        kwargs: arguments of the environment; it gets a copy.
        wrappers: each `module:Wrapper`, with a JSON object of its arguments after it or not; a `gymnasium.Wrapper`; a
            function that wraps; or a pair of one of these and a dict of arguments.
        frame_stack: observe the last observations, this many, see `FrameStack`.
        action_repeat: repeat each action this many times, and sum the rewards.
        time_aware: observe the share of the time limit that is left as well, see `RemainingTime`.
        log_info: numbers of `info` that `train` logs as `info/KEY`: `KEY` is the mean over steps, `KEY:last` that of
            episodes' last steps; `a.b` is `b` in the dict `a`.

    Raises:
        ConfigError: a value that is not allowed.
    """

    env_id: Any
    num_envs: int = 1
    backend: Backend = "auto"
    max_episode_steps: int | None = None
    from_pixels: bool = False
    kwargs: Mapping[str, Any] = Arguments()
    wrappers: tuple[Any, ...] = ()
    frame_stack: int = 1
    action_repeat: int = 1
    time_aware: bool = False
    log_info: tuple[str, ...] = ()

    def __new__(cls, *_: Any, **given: Any) -> EnvConfig:
        names = [each.name for each in fields(cls)]
        for name in given:
            if name not in names:
                hint = f"it is {_ELSEWHERE[name]} here" if name in _ELSEWHERE else did_you_mean(name, names)
                raise ConfigError(f"EnvConfig has no argument {name!r}; {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        kwargs = as_arguments(self.kwargs, "kwargs")
        env_id, kwargs = name_env(self.env_id, kwargs)
        self._set(env_id=env_id, kwargs=kwargs, wrappers=wrapper_names(self.wrappers, "wrappers"))
        if self.backend not in get_args(Backend):
            raise ConfigError(f"backend is {self.backend!r}; allowed are {', '.join(get_args(Backend))}")
        limits = {"num_envs": None, "max_episode_steps": None}
        for name, most in {**limits, "frame_stack": MOST_STACKED, "action_repeat": MOST_REPEATS}.items():
            value = getattr(self, name)
            if value is None and name == "max_episode_steps":
                continue
            if type(value) is not int or value < 1 or (most is not None and value > most):
                upto = "or more" if most is None else f"to {most}"
                raise ConfigError(f"{name} is {value!r}; allowed is a whole number, 1 {upto}")
        for name in ("from_pixels", "time_aware"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are True and False")
        self._check_together()
        self._check_log_info()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.from_pixels and self.backend in WITHOUT_IMAGES:
            raise ConfigError(f"from_pixels is True, and backend {self.backend!r} draws nothing; 'sync' and 'async' do")
        if "render_mode" in self.kwargs:
            raise ConfigError(
                "env-kwargs has 'render_mode', which rlpipe sets itself where it draws, as rlpipe render does"
            )
        if self.from_pixels and self.frame_stack > 1:
            raise ConfigError(f"frame_stack is {self.frame_stack}, and from_pixels stacks four images already")
        changed = [name for name in ("wrappers", "kwargs") if getattr(self, name)]
        changed += [name for name in ("frame_stack", "action_repeat") if getattr(self, name) > 1]
        changed += ["time_aware"] * self.time_aware
        if self.backend == "envpool" and changed:
            raise ConfigError(f"backend is 'envpool', whose environments take no {changed[0]}; backend 'auto' does")

    def _check_log_info(self) -> None:
        if not isinstance(self.log_info, tuple) or not all(isinstance(key, str) for key in self.log_info):
            raise ConfigError(f"log_info is {self.log_info!r}; expected a tuple of keys, such as ('x_velocity',)")
        parse_keys(self.log_info)
        if self.log_info and self.backend in WITHOUT_INFOS:
            raise ConfigError(
                f"log_info is {' '.join(self.log_info)}, and backend {self.backend!r} passes no infos on; 'sync' and "
                "'async' do"
            )

    @property
    def is_wrapped(self) -> bool:
        """Whether anything is put around the environment."""
        repeated = self.frame_stack > 1 or self.action_repeat > 1
        return bool(self.wrappers) or repeated or self.time_aware or self.from_pixels
