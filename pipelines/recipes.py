"""Recipes: named Configs. This table imports nothing heavy; a recipe's algorithm loads when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlpipe.errors import ConfigError

if TYPE_CHECKING:
    from rlpipe.pipelines.config import TrainConfig
    from rlpipe.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class Recipe:
    """A named Config of an algorithm.

    Args:
        name: as on the command line.
        algorithm: the module in `rlpipe.pipelines` with `Config` and `build`.
        summary: what it is, in a line.
        env_id: the environment it is for.
        settings: the Config's fields that differ from the algorithm's defaults.
    """

    name: str
    algorithm: str
    summary: str
    env_id: str = "CartPole-v1"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> TrainConfig:
        """This recipe's Config."""
        return config_class(self.algorithm)(env_id=self.env_id, **self.settings)


_TARGET_NETWORK = {
    "hidden": (128, 128),
    "activation": "relu",
    "initialization": "default",
    "layer_norm": False,
    "buffer_size": 10_000,
    "warmup_frames": 128,
    "minibatch_size": 128,
    "rollout_steps": 1,
    "num_envs": 16,
    "updates": 16,
    "gamma": 0.99,
    "optimizer": "adamw",
    "amsgrad": True,
    "lr": 1e-4,
    "lr_schedule": "constant",
    "adam_eps": 1e-8,
    "kind": "smooth_l1",
    "n_steps": 1,
    "double": False,
    "max_grad_norm": None,
    "max_grad_value": 100.0,
    "epsilon_schedule": "exponential",
    "epsilon_start": 0.9,
    "epsilon_end": 0.05,
    "epsilon_frames": 1_000,
    "tau": 0.005,
    "target_every": 1,
    "total_frames": 300_000,
    "eval_every": 10_000,
    "total_episodes": 600,
}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("ppo", "ppo", "clipped PPO, tuned to solve CartPole-v1 fast"),
        Recipe("dqn", "dqn", "deep Q-learning with replay, tuned to solve CartPole-v1 fast"),
        Recipe(
            "dqn/target-network",
            "dqn",
            "DQN with a soft target network and one update a frame, 600 episodes",
            settings=_TARGET_NETWORK,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}"
    raise ConfigError(f"no recipe is called {name!r}; {hint}")


def config_class(algorithm: str) -> type[TrainConfig]:
    """The Config class of an algorithm.

    Raises:
        ConfigError: there is no such algorithm.
    """
    return _algorithm(algorithm).Config


def builder(algorithm: str) -> Callable[[Any], Pipeline]:
    """The `build` function of an algorithm.

    Raises:
        ConfigError: there is no such algorithm.
    """
    return _algorithm(algorithm).build


def _algorithm(name: str) -> Any:
    known = sorted({recipe.algorithm for recipe in RECIPES.values()})
    if name not in known:
        raise ConfigError(f"no algorithm is called {name!r}; there are {', '.join(known)}")
    return importlib.import_module(f"rlpipe.pipelines.{name}")
