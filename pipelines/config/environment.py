"""The fields of Configs about the environment: its name, its arguments, and how it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.kinds import RewardShaping
from rlpipe.pipelines.config.fields import LARGEST, CheckedConfig, number
from rlpipe.pipelines.envs.arguments.given import name_env
from rlpipe.pipelines.envs.arguments.names import Arguments, as_arguments
from rlpipe.pipelines.envs.arguments.wrapping import unnamed_wrappers, wrapper_names
from rlpipe.pipelines.envs.backends.choice import Backend
from rlpipe.pipelines.envs.config import MOST_REPEATS, MOST_STACKED, EnvConfig
from rlpipe.user_modules import UNNAMED

ALIASES = {"env_id": "env", "wrapper": "wrappers"}
"""Fields of Configs, and what `rlpipe.train` calls them too."""


@dataclass(frozen=True)
class EnvArgumentsConfig(CheckedConfig):
    """The environment, its arguments, and what is put around it."""

    help_group = "environment"

    env_id: str = "CartPole-v1"
    """Gymnasium id of the environment; `module:Env-v0`, or `module:name` of its class or a function that makes it."""
    env_kwargs: Arguments = Arguments()  # noqa: RUF009 - nobody can change it
    """Arguments of the environment, a JSON object; `--env-kwargs.NAME VALUE` sets one."""
    eval_env_kwargs: Arguments | None = None
    """Arguments of the environment of evaluations; by default those of training."""
    wrapper: tuple[str, ...] = ()
    """Wrappers, the innermost first: `module:Wrapper`, or `'module:Wrapper {"argument": 1}'` with a JSON object."""
    frame_stack: int = number(1, at_least=1, at_most=MOST_STACKED)
    """Observe the last observations, this many."""
    action_repeat: int = number(1, at_least=1, at_most=MOST_REPEATS)
    """Repeat each action this many times, and sum the rewards; a frame is then one action."""
    time_aware: bool = False
    """Also observe the share of the time limit that is left, from 1 to 0."""

    def __post_init__(self) -> None:
        self._name_environment()
        super().__post_init__()

    def _name_environment(self) -> None:
        """Replace environments and wrappers that are given as objects by their names, which hold them.

        Raises:
            ConfigError: one of them is something else.
        """
        given: Any = {"env_kwargs": as_arguments(self.env_kwargs, "env_kwargs")}
        given["env_id"], given["env_kwargs"] = name_env(self.env_id, given["env_kwargs"])
        if self.eval_env_kwargs is not None:
            given["eval_env_kwargs"] = as_arguments(self.eval_env_kwargs, "eval_env_kwargs")
        if (judge := getattr(self, "eval_env_id", None)) is not None:
            theirs = given.get("eval_env_kwargs", given["env_kwargs"])
            given["eval_env_id"], found = name_env(judge, theirs, "eval_env_id")
            if found != theirs:
                given["eval_env_kwargs"] = found
        given["wrapper"] = wrapper_names(self.wrapper, "wrapper")
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def unnamed(self) -> list[str]:
        """What `config.json` cannot name of the environment, in words."""
        ids = [getattr(self, name, None) or "" for name in ("env_id", "eval_env_id")]
        found = [each for each in ids if each.startswith(UNNAMED)]
        for name in ("env_kwargs", "eval_env_kwargs"):
            found += [f"{name} {each}" for each in (getattr(self, name) or Arguments()).unwritten()]
        return found + [f"the wrapper {each}" for each in unnamed_wrappers(self.wrapper)]


@dataclass(frozen=True)
class EnvironmentConfig(EnvArgumentsConfig):
    """The environment, and how its rewards and observations are changed."""

    help_group = "environment"

    num_envs: int = number(1, at_least=1, at_most=1_000_000)
    """Number of environments that step together."""
    backend: Backend = "auto"
    """`auto`: in one process, vectorised where possible; `async`: a process per environment; `envpool`: in C++, an
    extra."""
    max_episode_steps: int | None = number(None, at_least=1, at_most=1_000_000_000)
    """Truncate episodes after this many steps instead of at the environment's own limit."""
    reward_shaping: RewardShaping = "none"
    """Learn from a reward shaped for CartPole, or `clip` rewards to [-1, 1]; reported returns are not shaped."""
    shaping_steps: int = number(500, at_least=1, at_most=1_000_000_000)
    """Steps after which `outcome` and `fall` count an episode as a success."""
    normalize_observation: bool = False
    """Normalise float observations by their running mean and standard deviation, which evaluations do not change."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return; reported returns are unchanged."""
    clip_observation: float = number(10.0, above=0, at_most=LARGEST)
    """Largest absolute value of a normalised observation."""
    clip_reward: float = number(10.0, above=0, at_most=LARGEST)
    """Largest absolute value of a normalised reward."""
    from_pixels: bool = False
    """Observe the rendered environment instead: the last four images in grey, 84x84."""
    log_info: tuple[str, ...] = ()
    """Log numbers of `info` as `info/KEY`: `KEY` is the mean over steps, `KEY:last` that of episodes' last steps."""

    @property
    def env(self) -> EnvConfig:
        """What `make_env` takes."""
        return EnvConfig(
            self.env_id,
            self.num_envs,
            self.backend,
            self.max_episode_steps,
            self.from_pixels,
            kwargs=self.env_kwargs,
            wrappers=self.wrapper,
            frame_stack=self.frame_stack,
            action_repeat=self.action_repeat,
            time_aware=self.time_aware,
            log_info=self.log_info,
        )

    def check(self) -> None:
        """Check that no option is without effect, and that the options of the environment go together."""
        super().check()
        for what, instead in (("observation", ""), ("reward", "; --reward-shaping clip clips to [-1, 1] without it")):
            clip = getattr(self, f"clip_{what}")
            if clip != 10.0 and not getattr(self, f"normalize_{what}"):
                raise ConfigError(f"clip_{what} is {clip}, which needs normalize_{what}{instead}")
        if self.from_pixels and self.reward_shaping == "balance":
            raise ConfigError(
                "reward_shaping is 'balance', which reads CartPole's own observation; from_pixels hides it"
            )
        if self.from_pixels and self.normalize_observation:
            raise ConfigError(
                "normalize_observation is True, but the network divides pixels by 255 itself; leave it out"
            )
        # its constructor refuses what does not go together
        _ = self.env


def with_aliases(options: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The options of `rlpipe.train`, with those that were given under their other name.

    Raises:
        ConfigError: one is given under both.
    """
    found = {name: value for name, value in given.items() if value is not None}
    if both := [name for name in found if name in options]:
        raise ConfigError(f"both {both[0]} and {ALIASES[both[0]]} are given, which are the same; leave one out")
    return {**options, **found}
