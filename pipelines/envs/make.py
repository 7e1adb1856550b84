"""`make_env`: from an `EnvConfig` to a `TransformedEnv`."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from torchrl.envs import Compose, Transform, TransformedEnv

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.pipelines.envs.actions import transformed_class
from rlpipe.pipelines.envs.backends.async_workers import WorkerVectorEnv
from rlpipe.pipelines.envs.backends.atari_game import FRAMESKIP, AtariGame, is_game
from rlpipe.pipelines.envs.backends.atari_vector import AtariGames
from rlpipe.pipelines.envs.backends.cartpole import SameStepCartPole
from rlpipe.pipelines.envs.backends.env_checker import make_checked
from rlpipe.pipelines.envs.backends.envpool import EnvPoolVectorEnv
from rlpipe.pipelines.envs.backends.pixel_observation import check_modes, choose_drivers
from rlpipe.pipelines.envs.backends.sync import SyncEnvs
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.frozen_transforms import check_steps
from rlpipe.pipelines.envs.vector import VectorEnv
from rlpipe.user_modules import import_module, module_of, reason_of

_CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
_GAMES = "ALE/"
_SHOWN = 5
_KNOWN = ("gymnasium.envs.", "rlpipe.", "ale_py.")
# what an environment's package is called among rlpipe's extras
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "ale_py": "atari"}


class UnknownEnvError(ConfigError):
    """Gymnasium knows no environment of an id that names no module."""


def make_env(
    config: EnvConfig,
    *,
    seed: int | None = None,
    transforms: Sequence[Transform] = (),
    render_mode: str | None = None,
) -> TransformedEnv:
    """Build a batched environment, `[num_envs]`, also for one.

    Args:
        config: which environment, how many, and on which backend.
        seed: of the first reset; the environments' streams are drawn from it.
        transforms: TorchRL transforms, in their order.
        render_mode: of the environments, one that they have; `env.base_env.envs.render()` then draws them.

    Raises:
        TypeError: the config is no `EnvConfig`.
        ConfigError: no such environment, one that needs an extra or that the backend does not have, or spaces or
            transforms that rlpipe does not take.
    """
    check_is_config(config)
    check_steps(transforms)
    envs = _make_vector_env(config, render_mode)
    try:
        base = VectorEnv(envs, seed=seed, reuses_arrays=False)
        env = transformed_class(base)(base, Compose(*transforms))
        env.specs  # noqa: B018 - built on first use; a transform that does not fit must say so now
    except BaseException:
        envs.close()
        raise
    return env


def check_is_config(config: object) -> None:
    """Refuse an id in place of a config.

    Raises:
        TypeError: it is no `EnvConfig`.
    """
    if not isinstance(config, EnvConfig):
        raise TypeError(f"got {config!r}, expected an EnvConfig, such as EnvConfig('CartPole-v1')")


def env_spec(env_id: str | type[gym.Env]) -> gym.envs.registration.EnvSpec:
    """Gymnasium's entry for an id; of one of a module (`module:Env-v0`), after importing that; or one for a class.

    Raises:
        ConfigError: there is none, and it names the nearest ids; or the module cannot be imported.
    """
    if isinstance(env_id, type):
        creator: Any = env_id
        return gym.envs.registration.EnvSpec(env_id.__name__, entry_point=creator)
    module, name = module_of(env_id), env_id.rpartition(":")[-1]
    if module:
        import_module(module, f"env-id is {env_id!r}")
    try:
        return _game_spec(name) if name.startswith(_GAMES) else gym.spec(name)
    except (gym.error.Error, ValueError) as error:
        if module:
            registered = [spec.id for spec in gym.registry.values() if _module_of_entry(spec).startswith(module)]
            has = f"; it registers {', '.join(registered[:_SHOWN])}" if registered else ""
            raise ConfigError(f"env-id is {env_id!r}, and the module {module!r} registers no {name!r}{has}") from error
        near = _nearest(env_id)
        elsewhere = "see gymnasium.pprint_registry() for all ids; one that a module registers is called MODULE:ID"
        hint = f"did you mean {' or '.join(near)}?" if near else elsewhere
        raise UnknownEnvError(f"env-id is {env_id!r}, which Gymnasium does not know; {hint}") from error


def has_many_copies(env_id: str | type[gym.Env]) -> bool:
    """Whether many copies can be open at once: so it is with what Gymnasium and rlpipe bring along, and with Atari.

    Of any other environment that is not known: it may need a port, a licence or a robot of its own.
    """
    return f"{_module_of_entry(env_spec(env_id))}.".startswith(_KNOWN)


def _module_of_entry(spec: gym.envs.registration.EnvSpec) -> str:
    """The module that an environment's class or function is in."""
    point = spec.entry_point
    return point.partition(":")[0] if isinstance(point, str) else str(getattr(point, "__module__", ""))


def _nearest(env_id: str) -> list[str]:
    """The ids that are likely meant, in whatever case, of games also without what is in front of their names."""
    with contextlib.suppress(ImportError):
        importlib.import_module("ale_py")
    # of a game's other ids none is taken
    taken = [spec for spec in gym.registry.values() if spec.namespace == "ALE" or "ale_py" not in str(spec.entry_point)]
    ids = [spec.id for spec in taken]
    known = {each.lower().removeprefix(_GAMES.lower()): each for each in ids} | {each.lower(): each for each in ids}
    word = env_id.lower()
    close = [word] if word in known else difflib.get_close_matches(word, known, n=6, cutoff=0.6)
    return list(dict.fromkeys(known[each] for each in close))[:3]


def _game_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The entry of an Atari game, with the limit in steps that its id has in frames."""
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


def _make_vector_env(config: EnvConfig, render_mode: str | None) -> gym.vector.VectorEnv:
    spec = env_spec(config.env_id)
    steps = config.max_episode_steps or spec.max_episode_steps
    kwargs = _options(config, render_mode)
    make_one = functools.partial(make_checked, spec, kwargs, from_pixels=config.from_pixels)
    vectorised = config.backend == "auto" and not config.from_pixels
    try:
        if config.from_pixels:
            _check_drawn(config, spec)
        if config.backend == "envpool":
            return EnvPoolVectorEnv(spec, config.num_envs, config.max_episode_steps)
        if config.backend == "async":
            return WorkerVectorEnv([make_one] * config.num_envs, spec, autoreset_mode=AutoresetMode.SAME_STEP)
        if vectorised and is_game(spec) and render_mode is None:
            return AtariGames(spec, config.num_envs, config.max_episode_steps)
        if vectorised and spec.entry_point == _CARTPOLE and steps is not None:
            envs: gym.vector.VectorEnv = SameStepCartPole(config.num_envs, max_episode_steps=steps, **spec.kwargs)
            envs.spec = spec
            return envs
        if vectorised and spec.namespace == "rlpipe" and spec.vector_entry_point is not None:
            return gym.make_vec(spec, config.num_envs, vectorization_mode="vector_entry_point", **kwargs)
        names = [f"environment {index} of {config.num_envs} ({spec.id})" for index in range(config.num_envs)]
        return SyncEnvs([functools.partial(make_one, name) for name in names], spec)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        extras = [extra for part, extra in _EXTRAS.items() if part in str(spec.entry_point)]
        install = f'pip install "rlpipe[{extras[0]}]"' if extras else _first_line(error)
        raise ConfigError(f"env-id {config.env_id!r} needs a package that is missing: {install}") from error
    except SystemExit as error:
        raise ConfigError(f"env-id {config.env_id!r} cannot be made: {reason_of(error)}") from error
    except MemoryError as error:
        raise ConfigError(f"num_envs is {config.num_envs}; there is not enough memory for so many") from error
    except RlpipeError:
        raise
    except Exception as error:
        # Gymnasium's own say enough
        kind = "" if isinstance(error, (gym.error.Error, TypeError)) or not str(error) else f"{type(error).__name__}: "
        raise ConfigError(f"env-id {config.env_id!r} cannot be made: {kind}{_first_line(error)}") from error


def _options(config: EnvConfig, render_mode: str | None) -> dict[str, Any]:
    """What Gymnasium makes an environment with."""
    if config.from_pixels and render_mode not in (None, "rgb_array"):
        raise ConfigError(f"render_mode is {render_mode!r}; an environment with from_pixels has rgb_array")
    if config.backend == "envpool" and render_mode is not None:
        raise ConfigError(f"render_mode is {render_mode!r}; backend 'envpool' draws nothing, backend 'sync' does")
    render_mode = "rgb_array" if config.from_pixels else render_mode
    options = {"max_episode_steps": config.max_episode_steps, "render_mode": render_mode}
    return {name: value for name, value in options.items() if value is not None}


def _check_drawn(config: EnvConfig, spec: gym.envs.registration.EnvSpec) -> None:
    """Before an environment is made with a render mode, which not every one takes."""
    if is_game(spec):
        metadata = AtariGame.metadata
    else:
        env = make_checked(spec, {})
        metadata = env.metadata
        env.close()
    check_modes(config.env_id, metadata, "--from-pixels")
    choose_drivers()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
