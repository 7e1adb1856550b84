"""rlpipe: a modular pipeline on TorchRL and TensorDict for training reinforcement-learning agents.

The names that most people import are here. They load when they are first used, so that `import rlpipe` is instant.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpipe.errors import ConfigError, RlpipeError
    from rlpipe.losses import ClipPPOLoss, DQNLoss, TargetUpdate
    from rlpipe.modules import GAE, MLP, CategoricalActor, Critic, EpsilonGreedy, GaussianActor, QActor
    from rlpipe.pipelines.collector import SyncDataCollector
    from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
    from rlpipe.pipelines.evaluation import Evaluation, evaluate
    from rlpipe.pipelines.pipeline import Pipeline, gradient_step, off_policy, on_policy, once
    from rlpipe.pipelines.priorities import PrioritizedSampler
    from rlpipe.pipelines.progress import Progress, StopTraining
    from rlpipe.pipelines.recipes import find_recipe
    from rlpipe.pipelines.replay import ReplayState
    from rlpipe.pipelines.run import Run
    from rlpipe.pipelines.seeding import Seeds
    from rlpipe.pipelines.session import run_recipe
    from rlpipe.pipelines.stopping import StoppingRule
    from rlpipe.pipelines.trained import trained
    from rlpipe.pipelines.training import train

__version__ = "0.1.0"

# in a checkout, which Python finds before an installed package, the other packages lie beside this folder and not in it
if not Path(__file__).with_name("losses").exists():
    __path__.append(str(Path(__file__).resolve().parent.parent))

__all__ = [
    "GAE",
    "MLP",
    "CategoricalActor",
    "ClipPPOLoss",
    "ConfigError",
    "Critic",
    "DQNLoss",
    "EnvConfig",
    "EpsilonGreedy",
    "Evaluation",
    "GaussianActor",
    "Pipeline",
    "PrioritizedSampler",
    "Progress",
    "QActor",
    "ReplayState",
    "RlpipeError",
    "Run",
    "Seeds",
    "StopTraining",
    "StoppingRule",
    "SyncDataCollector",
    "TargetUpdate",
    "VectorEnv",
    "__version__",
    "evaluate",
    "find_recipe",
    "gradient_step",
    "make_env",
    "off_policy",
    "on_policy",
    "once",
    "run_recipe",
    "train",
    "trained",
]

_HOMES = (
    "errors",
    "losses",
    "modules",
    "pipelines.collector",
    "pipelines.envs",
    "pipelines.evaluation",
    "pipelines.pipeline",
    "pipelines.priorities",
    "pipelines.progress",
    "pipelines.recipes",
    "pipelines.replay",
    "pipelines.run",
    "pipelines.seeding",
    "pipelines.session",
    "pipelines.stopping",
    "pipelines.trained",
    "pipelines.training",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"rlpipe.{home}")
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module 'rlpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
