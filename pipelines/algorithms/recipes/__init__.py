"""Recipes: named Configs. This table imports nothing heavy, nor do Configs; what builds is imported when it builds."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms.recipes import settings as tuned
from rlpipe.pipelines.algorithms.recipes.source import Source, named_source, source_of_run
from rlpipe.spelling import did_you_mean

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
    from rlpipe.pipelines.pipeline import Pipeline


_LOG = logging.getLogger("rlpipe")


@dataclass(frozen=True)
class Recipe:
    """A named Config of an algorithm.

    Args:
        name: as on the command line.
        algorithm: the module in `rlpipe.pipelines.algorithms` with `build`, and in its folder `configs` with `Config`.
        summary: one line.
        env_id: its environment.
        settings: fields of the Config that differ from the algorithm's defaults.
        source: where the algorithm is, if it is a user's.
    """

    name: str
    algorithm: str
    summary: str
    env_id: str = "CartPole-v1"
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None

    @property
    def config_class(self) -> type[Any]:
        """The Config class of the algorithm."""
        return config_class(self.algorithm) if self.source is None else self.source.load().Config

    def config(self) -> Any:
        """This recipe's Config."""
        if self.source is None:
            return self.config_class(env_id=self.env_id, **self.settings)
        from rlpipe.pipelines.config.json_form import checked, made  # noqa: PLC0415 - heavy

        return checked(made(self.config_class, {}))

    def build(self, config: Any) -> Pipeline:
        """Build the algorithm of a config.

        Raises:
            ConfigError: the environment or the device is not available, or does not fit the config.
        """
        build = builder(self.algorithm) if self.source is None else self.source.load().build
        return build(config)

    def owners(self, option: str) -> Sequence[str]:
        """What has an option that this recipe does not have: algorithms, or a group that its Config may inherit."""
        if self.source is None:
            return owners_of(option)
        from rlpipe.pipelines.config.groups import groups_with  # noqa: PLC0415 - heavy

        return [f"a Config that inherits rlpipe.{each}" for each in groups_with(option)[:1]]

    def described(self) -> dict[str, Any] | None:
        """What `config.json` holds of a user's algorithm; `None` for a recipe."""
        if self.source is None:
            return None
        defaults = json.loads(json.dumps(dataclasses.asdict(self.config())))
        return {**self.source.described(), "defaults": defaults}

    def resume(self, folder: Path) -> str:
        """The command that continues a run."""
        trust = "" if self.source is None else f" --trust-module {shlex.quote(self.source.place)}"
        return f"rlpipe resume {shlex.quote(str(folder))}{trust}"

    def resume_from_python(self, folder: Path) -> str:
        """The call that continues a run with listeners."""
        source = self.source
        name = self.name if source is None else (source.algorithm if source.file is None else source.place)
        return f'rlpipe.train("{name}", folder="{folder}", resume=True, listeners=[...])'


_ALL = (
    Recipe("ppo", "ppo", "clipped PPO, tuned to solve CartPole-v1 fast"),
    Recipe("dqn", "dqn", "deep Q-learning with replay, tuned to solve CartPole-v1 fast"),
    Recipe("a2c", "a2c", "advantage actor-critic, tuned to solve CartPole-v1 fast"),
    Recipe("reinforce", "reinforce", "policy gradient on whole episodes, tuned to solve CartPole-v1 fast"),
    Recipe("qr-dqn", "qr_dqn", "DQN on quantiles of the return, tuned on three environments"),
    Recipe("sac", "sac", "soft actor-critic for continuous control", "Pendulum-v1"),
    Recipe("td3", "td3", "twin delayed DDPG for continuous control", "Pendulum-v1"),
    Recipe("dqn/online", "dqn", "deep Q-learning without replay, shaped reward", settings=tuned.ONLINE),
    Recipe("dqn/replay", "dqn", "the same with experience replay", settings=tuned.REPLAY),
    Recipe(
        "dqn/target-network",
        "dqn",
        "soft target network, one update a frame, 600 episodes",
        settings=tuned.TARGET_NETWORK,
    ),
    Recipe("dqn/consecutive", "dqn", "200-step CartPole, until ten successes in a row", settings=tuned.CONSECUTIVE),
    Recipe("dqn/small", "dqn", "a small network, until ten episodes average 450", settings=tuned.SMALL),
    Recipe(
        "dqn/instances",
        "dqn",
        "one Q network for a family of CartPoles, judged on unseen ones",
        "rlpipe/CartPoleInstances-v0",
        tuned.INSTANCES,
    ),
    Recipe("reinforce/episodic", "reinforce", "an update an episode, 3000 episodes", settings=tuned.EPISODIC),
    Recipe("a2c/eight-workers", "a2c", "eight environments in eight processes", "CartPole-v0", tuned.EIGHT_WORKERS),
    Recipe("ppo/positions", "ppo", "CartPole without velocities", "rlpipe/CartPolePositions-v0", tuned.POSITIONS),
    Recipe(
        "ppo/inverted-double-pendulum",
        "ppo",
        "MuJoCo, with normalised observations",
        "InvertedDoublePendulum-v5",
        tuned.PENDULUM,
    ),
    Recipe(
        "td3/mountain-car",
        "td3",
        "noise that lasts, to swing the car up the hill",
        "MountainCarContinuous-v0",
        tuned.MOUNTAIN_CAR,
    ),
    Recipe("dqn/atari", "dqn", "Atari games from pixels", "ALE/Pong-v5", tuned.DQN_ATARI),
    Recipe("ppo/atari", "ppo", "Atari games from pixels", "ALE/Pong-v5", tuned.PPO_ATARI),
    Recipe("q-learning/maze", "q_learning", "tabular Q-learning on a maze", "rlpipe/Maze-v0", tuned.MAZE_VALUES),
    Recipe("sarsa/maze", "sarsa", "tabular SARSA on a maze", "rlpipe/Maze-v0", tuned.MAZE_VALUES),
    Recipe(
        "policy-gradient/maze",
        "policy_gradient",
        "tabular policy gradient on a maze",
        "rlpipe/Maze-v0",
        tuned.MAZE_POLICY,
    ),
    Recipe(
        "q-learning/cartpole-bins", "q_learning", "tabular Q-learning on binned CartPole", "CartPole-v0", tuned.BINS
    ),
)
RECIPES = {recipe.name: recipe for recipe in _ALL}
_ALGORITHMS = sorted({recipe.algorithm for recipe in RECIPES.values()})


def find_recipe(name: str) -> Recipe:
    """The recipe of this name, or the algorithm of a user's: `FILE.py`, `FILE.py:name` or `module:name`.

    Raises:
        ConfigError: there is no such recipe, and the nearest is named; or the algorithm cannot be loaded.
    """
    if name in RECIPES:
        return RECIPES[name]
    source = named_source(name)
    if source is None:
        raise ConfigError(f"no recipe is called {name!r}; {did_you_mean(name, RECIPES)}")
    return _of_user(source)


def recipe_of_run(described: Mapping[str, Any]) -> Recipe:
    """The recipe of a run, from its `config.json`; says in a warning if the source of a user's algorithm has changed.

    Raises:
        ConfigError: this version has no such algorithm, or it cannot be loaded.
    """
    name, algorithm = described["recipe"], described["algorithm"]
    source = source_of_run(described)
    if source is None:
        config_class(algorithm)
        return Recipe(name, algorithm, "")
    # the digest of a module can be computed once it is imported
    source.load()
    if (before := described["source"]["digest"]) != source.digest:
        _LOG.warning(
            "rlpipe: the source of %s has changed since this run began (%s then, %s now): what it does may differ",
            source.place,
            before,
            source.digest,
        )
    return Recipe(name, algorithm, "", source=source)


def _of_user(source: Source) -> Recipe:
    loaded = source.load()
    env_id = next((each.default for each in dataclasses.fields(loaded.Config) if each.name == "env_id"), "")
    return Recipe(source.recipe(RECIPES), source.algorithm, loaded.summary, str(env_id), source=source)


def config_class(algorithm: str) -> type[TrainConfig]:
    """The Config class of an algorithm.

    Raises:
        ConfigError: the algorithm does not exist.
    """
    return _module("configs.", algorithm).Config


def owners_of(option: str) -> list[str]:
    """The algorithms whose Config has a field of this name, with dashes or underscores; as recipes spell them."""
    name = option.replace("-", "_")
    found = [each for each in _ALGORITHMS if name in {field.name for field in dataclasses.fields(config_class(each))}]
    return [each.replace("_", "-") for each in found]


def builder(algorithm: str) -> Callable[[Any], Pipeline]:
    """The `build` function of an algorithm.

    Raises:
        ConfigError: the algorithm does not exist.
    """
    return _module("", algorithm).build


def _module(folder: str, name: str) -> Any:
    if name not in _ALGORITHMS:
        raise ConfigError(
            f"no algorithm is called {name!r}; there are {', '.join(_ALGORITHMS)}. A custom run is resumed and "
            "evaluated by the program that trained it"
        )
    return importlib.import_module(f"rlpipe.pipelines.algorithms.{folder}{name}")
