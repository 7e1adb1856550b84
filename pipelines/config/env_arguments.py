"""The fields of Configs that name an environment, its arguments, and what is put around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.fields import number
from rlpipe.pipelines.envs.arguments.given import name_env
from rlpipe.pipelines.envs.arguments.names import Arguments, as_arguments
from rlpipe.pipelines.envs.arguments.wrapping import unnamed_wrappers, wrapper_names
from rlpipe.pipelines.envs.config import MOST_REPEATS, MOST_STACKED
from rlpipe.user_modules import UNNAMED

ALIASES = {"env_id": "env", "wrapper": "wrappers"}
"""Fields of Configs, and what `run_recipe` calls them too."""


@dataclass(frozen=True)
class EnvArgumentsConfig:
    """The environment, its arguments, and what is put around it."""

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

    def name_environment(self) -> None:
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


def with_aliases(options: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The options of `run_recipe`, with those that were given under their other name.

    Raises:
        ConfigError: one is given under both.
    """
    found = {name: value for name, value in given.items() if value is not None}
    if both := [name for name in found if name in options]:
        raise ConfigError(f"both {both[0]} and {ALIASES[both[0]]} are given, which are the same; leave one out")
    return {**options, **found}
