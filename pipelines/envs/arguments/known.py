"""What an `env_id` denotes: a spec of Gymnasium's, found without PyTorch."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
from typing import Any

import gymnasium as gym

from rlpipe.errors import ConfigError
from rlpipe.pipelines.envs.arguments.given import name_env, spec_of
from rlpipe.pipelines.envs.arguments.names import Arguments, Named
from rlpipe.pipelines.envs.backends.atari_game import FRAMESKIP, is_game
from rlpipe.spelling import nearest
from rlpipe.user_modules import UNNAMED, import_module, inside, module_of

_GAMES = "ALE/"
_SHOWN = 5
_KNOWN = ("gymnasium.envs.", "rlpipe.", "ale_py.")


class UnknownEnvError(ConfigError):
    """An id without a module that Gymnasium does not know."""


def env_spec(env_id: Any) -> gym.envs.registration.EnvSpec:
    """The spec of what an `env_id` denotes: Gymnasium's of an id, or one that calls what is given.

    Of `module:name` the module is imported; if it registers no environment of this name, it is its class or function.

    Raises:
        ConfigError: there is none (the message names similar ids), or the module cannot be imported.
    """
    if not isinstance(env_id, str):
        env_id, _ = name_env(env_id, Arguments())
    if isinstance(env_id, Named):
        return spec_of(env_id.given, env_id)
    module, name = module_of(env_id), env_id.rpartition(":")[-1]
    imported = import_module(module, f"env-id is {env_id!r}") if module else None
    try:
        return _game_spec(name) if name.startswith(_GAMES) else gym.spec(name)
    except (gym.error.Error, ValueError) as error:
        if (found := inside(imported, name)) is not None:
            return spec_of(found, env_id)
        if module:
            registered = [spec.id for spec in gym.registry.values() if _module_of_entry(spec).startswith(module)]
            has = f"; it registers {', '.join(registered[:_SHOWN])}" if registered else ""
            if not registered and (near := nearest(name, vars(imported))):
                has = f"; did you mean {module}:{near}?"
            raise ConfigError(f"env-id is {env_id!r}, and the module {module!r} registers no {name!r}{has}") from error
        if env_id.startswith(UNNAMED):
            raise UnknownEnvError(f"env-id is {env_id!r}, which stands for an object and names none") from error
        alike = _nearest(env_id)
        elsewhere = "see gymnasium.pprint_registry() for all ids; one that a module registers is called MODULE:ID"
        hint = f"did you mean {' or '.join(alike)}?" if alike else elsewhere
        raise UnknownEnvError(f"env-id is {env_id!r}, which Gymnasium does not know; {hint}") from error


def has_many_copies(env_id: Any) -> bool:
    """Whether many copies can be open at once: true for environments of Gymnasium and rlpipe, and for Atari.

    Any other environment may need a port, a licence or a robot.
    """
    return f"{_module_of_entry(env_spec(env_id))}.".startswith(_KNOWN)


def _module_of_entry(spec: gym.envs.registration.EnvSpec) -> str:
    """The module of an environment's class or function."""
    point = spec.entry_point
    return point.partition(":")[0] if isinstance(point, str) else str(getattr(point, "__module__", ""))


def _nearest(env_id: str) -> list[str]:
    """Similar ids, in any case; those of games also without their `ALE/`."""
    with contextlib.suppress(ImportError):
        importlib.import_module("ale_py")
    # games have other ids, which rlpipe does not take
    taken = [spec for spec in gym.registry.values() if spec.namespace == "ALE" or "ale_py" not in str(spec.entry_point)]
    ids = [spec.id for spec in taken]
    known = {each.lower().removeprefix(_GAMES.lower()): each for each in ids} | {each.lower(): each for each in ids}
    word = env_id.lower()
    close = [word] if word in known else difflib.get_close_matches(word, known, n=6, cutoff=0.6)
    return list(dict.fromkeys(known[each] for each in close))[:3]


def _game_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The spec of an Atari game, with its time limit in steps instead of emulated frames."""
    try:
        import_module("ale_py", f"env-id is {env_id!r}")
    except ConfigError as error:
        if getattr(error.__cause__, "name", None) != "ale_py":
            raise
        raise ConfigError(
            f'env-id is {env_id!r}, which Gymnasium does not know; it needs an extra: pip install "rlpipe[atari]"'
        ) from error
    spec = copy.deepcopy(gym.spec(env_id))
    if is_game(spec):
        spec.max_episode_steps = spec.kwargs["max_num_frames_per_episode"] // FRAMESKIP
    return spec
