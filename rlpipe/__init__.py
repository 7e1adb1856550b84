"""rlpipe: a modular pipeline on TorchRL and TensorDict for training reinforcement-learning agents.

The names that most people import are here. They load when they are first used, so that `import rlpipe` is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlpipe.lazy import loader
from rlpipe.quiet import quieten
from rlpipe.version import __version__

if TYPE_CHECKING:
    from rlpipe.errors import ConfigError, RlpipeError
    from rlpipe.losses import GAE, ClipPPOLoss, DQNLoss, QRDQNLoss, TargetUpdate
    from rlpipe.modules import (
        MLP,
        ActionValueCritic,
        CategoricalActor,
        Critic,
        DeterministicActor,
        EpsilonGreedy,
        GaussianActor,
        GaussianNoise,
        OrnsteinUhlenbeck,
        QActor,
        QuantileActor,
        RandomWarmup,
    )
    from rlpipe.pipelines.agents.agent import Agent
    from rlpipe.pipelines.agents.load import load, trained
    from rlpipe.pipelines.algorithms.recipes import find_recipe
    from rlpipe.pipelines.build.pipeline import make_pipeline, set_up
    from rlpipe.pipelines.build.schedules import make_schedules
    from rlpipe.pipelines.collectors.collector import SyncDataCollector
    from rlpipe.pipelines.collectors.evaluation import evaluate
    from rlpipe.pipelines.config.environment import EnvironmentConfig
    from rlpipe.pipelines.config.fields import number
    from rlpipe.pipelines.config.groups import (
        ActorConfig,
        ActorCriticConfig,
        CollectionConfig,
        ExplorationConfig,
        NetworkConfig,
        OptimizerConfig,
        ReplayConfig,
        RolloutConfig,
    )
    from rlpipe.pipelines.config.run import RunConfig
    from rlpipe.pipelines.config.train import TrainConfig
    from rlpipe.pipelines.envs import EnvConfig, VectorEnv, make_env
    from rlpipe.pipelines.front_door import run_recipe, train
    from rlpipe.pipelines.pipeline import Pipeline
    from rlpipe.pipelines.progress import Evaluation, Progress, StopTraining
    from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
    from rlpipe.pipelines.replay.state import ReplayState
    from rlpipe.pipelines.runs.run import Run
    from rlpipe.pipelines.seeding import Seeds
    from rlpipe.pipelines.stopping import StoppingRule
    from rlpipe.pipelines.trained_run import TrainedRun
    from rlpipe.pipelines.training.listeners import Moment
    from rlpipe.pipelines.training.schedules import schedule
    from rlpipe.pipelines.updates.combining import every, in_turn
    from rlpipe.pipelines.updates.learning import off_policy, on_policy, once
    from rlpipe.pipelines.updates.update import gradient_step

# in a checkout, which Python finds before an installed package, the other packages lie beside this folder and not in it
if not Path(__file__).with_name("losses").exists():
    __path__.append(str(Path(__file__).resolve().parent.parent))

_NAMES = {
    "rlpipe.errors": "ConfigError RlpipeError",
    "rlpipe.losses": "ClipPPOLoss DQNLoss GAE QRDQNLoss SACLoss TD3ActorLoss TD3CriticLoss TargetUpdate",
    "rlpipe.modules": "ActionValueCritic CategoricalActor Critic DeterministicActor EpsilonGreedy GaussianActor "
    "GaussianNoise MLP OrnsteinUhlenbeck QActor QuantileActor RandomWarmup",
    "rlpipe.pipelines.agents.agent": "Agent",
    "rlpipe.pipelines.agents.load": "load trained",
    "rlpipe.pipelines.algorithms.recipes": "find_recipe",
    "rlpipe.pipelines.build.pipeline": "make_pipeline set_up",
    "rlpipe.pipelines.build.schedules": "make_schedules",
    "rlpipe.pipelines.config.environment": "EnvironmentConfig",
    "rlpipe.pipelines.config.fields": "number",
    "rlpipe.pipelines.config.groups": (
        "ActorConfig ActorCriticConfig CollectionConfig ExplorationConfig NetworkConfig "
        "OptimizerConfig ReplayConfig RolloutConfig"
    ),
    "rlpipe.pipelines.config.run": "RunConfig",
    "rlpipe.pipelines.config.train": "TrainConfig",
    "rlpipe.pipelines.collectors.collector": "SyncDataCollector",
    "rlpipe.pipelines.collectors.evaluation": "evaluate",
    "rlpipe.pipelines.envs": "EnvConfig VectorEnv make_env",
    "rlpipe.pipelines.pipeline": "Pipeline",
    "rlpipe.pipelines.progress": "Evaluation Progress StopTraining",
    "rlpipe.pipelines.replay.prioritized": "PrioritizedSampler",
    "rlpipe.pipelines.replay.state": "ReplayState",
    "rlpipe.pipelines.runs.run": "Run",
    "rlpipe.pipelines.seeding": "Seeds",
    "rlpipe.pipelines.front_door": "run_recipe train",
    "rlpipe.pipelines.stopping": "StoppingRule",
    "rlpipe.pipelines.training.listeners": "Moment",
    "rlpipe.pipelines.trained_run": "TrainedRun",
    "rlpipe.pipelines.training.schedules": "schedule",
    "rlpipe.pipelines.updates.combining": "every in_turn",
    "rlpipe.pipelines.updates.learning": "off_policy on_policy once",
    "rlpipe.pipelines.updates.update": "gradient_step",
}

__all__ = [
    "GAE",
    "MLP",
    "ActionValueCritic",
    "ActorConfig",
    "ActorCriticConfig",
    "Agent",
    "CategoricalActor",
    "ClipPPOLoss",
    "CollectionConfig",
    "ConfigError",
    "Critic",
    "DQNLoss",
    "DeterministicActor",
    "EnvConfig",
    "EnvironmentConfig",
    "EpsilonGreedy",
    "Evaluation",
    "ExplorationConfig",
    "GaussianActor",
    "GaussianNoise",
    "Moment",
    "NetworkConfig",
    "OptimizerConfig",
    "OrnsteinUhlenbeck",
    "Pipeline",
    "PrioritizedSampler",
    "Progress",
    "QActor",
    "QRDQNLoss",
    "QuantileActor",
    "RandomWarmup",
    "ReplayConfig",
    "ReplayState",
    "RlpipeError",
    "RolloutConfig",
    "Run",
    "RunConfig",
    "SACLoss",
    "Seeds",
    "StopTraining",
    "StoppingRule",
    "SyncDataCollector",
    "TD3ActorLoss",
    "TD3CriticLoss",
    "TargetUpdate",
    "TrainConfig",
    "TrainedRun",
    "VectorEnv",
    "__version__",
    "evaluate",
    "every",
    "find_recipe",
    "gradient_step",
    "in_turn",
    "load",
    "make_env",
    "make_pipeline",
    "make_schedules",
    "number",
    "off_policy",
    "on_policy",
    "once",
    "run_recipe",
    "schedule",
    "set_up",
    "train",
    "trained",
]

quieten()
__getattr__ = loader(__name__, {name: home for home, names in _NAMES.items() for name in names.split()})


def __dir__() -> list[str]:
    return sorted(__all__)
