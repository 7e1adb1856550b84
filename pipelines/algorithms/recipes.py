"""Recipes: named Configs. This table imports nothing heavy; a recipe's algorithm is imported when it is needed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import recipe_settings as tuned
from rlpipe.spelling import did_you_mean

if TYPE_CHECKING:
    from rlpipe.pipelines.config.train import TrainConfig
    from rlpipe.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class Recipe:
    """A named Config of an algorithm.

    Args:
        name: as on the command line.
        algorithm: the module in `rlpipe.pipelines.algorithms` with `Config` and `build`.
        summary: one line.
        env_id: its environment.
        settings: fields of the Config that differ from the algorithm's defaults.
    """

    name: str
    algorithm: str
    summary: str
    env_id: str = "CartPole-v1"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> TrainConfig:
        """This recipe's Config."""
        return config_class(self.algorithm)(env_id=self.env_id, **self.settings)


_ALL = (
    Recipe("ppo", "ppo", "clipped PPO, tuned to solve CartPole-v1 fast"),
    Recipe("dqn", "dqn", "deep Q-learning with replay, tuned to solve CartPole-v1 fast"),
    Recipe("a2c", "a2c", "advantage actor-critic, tuned to solve CartPole-v1 fast"),
    Recipe("reinforce", "reinforce", "policy gradient on whole episodes, tuned to solve CartPole-v1 fast"),
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
    Recipe(
        "ppo/inverted-double-pendulum",
        "ppo",
        "MuJoCo, with normalised observations",
        "InvertedDoublePendulum-v5",
        tuned.PENDULUM,
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
    """The recipe of this name.

    Raises:
        ConfigError: no recipe has it; names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]
    raise ConfigError(f"no recipe is called {name!r}; {did_you_mean(name, RECIPES)}")


def config_class(algorithm: str) -> type[TrainConfig]:
    """The Config class of an algorithm.

    Raises:
        ConfigError: the algorithm does not exist.
    """
    return _algorithm(algorithm).Config


def owners_of(option: str) -> list[str]:
    """The algorithms whose Config has a field of this name, with dashes or underscores."""
    name = option.replace("-", "_")
    return [each for each in _ALGORITHMS if name in {field.name for field in dataclasses.fields(config_class(each))}]


def builder(algorithm: str) -> Callable[[Any], Pipeline]:
    """The `build` function of an algorithm.

    Raises:
        ConfigError: the algorithm does not exist.
    """
    return _algorithm(algorithm).build


def _algorithm(name: str) -> Any:
    if name not in _ALGORITHMS:
        raise ConfigError(
            f"no algorithm is called {name!r}; there are {', '.join(_ALGORITHMS)}. A custom run is resumed and "
            "evaluated by the program that trained it"
        )
    return importlib.import_module(f"rlpipe.pipelines.algorithms.{name}")
