"""What is learned, and what acts: TensorDictModules on TorchRL's key names."""

from rlpipe.modules.actors import CategoricalActor, Critic, GaussianActor, QActor
from rlpipe.modules.advantage import GAE
from rlpipe.modules.distributions import Categorical, TanhNormal
from rlpipe.modules.exploration import (
    EpsilonGreedy,
    Exponential,
    Geometric,
    Harmonic,
    Linear,
    Schedule,
    ScheduleKind,
    make_schedule,
)
from rlpipe.modules.networks import MLP, Activation, DuelingHead, Flatten, Initialization, OneHot, encoder
from rlpipe.modules.returns import NStep

__all__ = [
    "GAE",
    "MLP",
    "Activation",
    "Categorical",
    "CategoricalActor",
    "Critic",
    "DuelingHead",
    "EpsilonGreedy",
    "Exponential",
    "Flatten",
    "GaussianActor",
    "Geometric",
    "Harmonic",
    "Initialization",
    "Linear",
    "NStep",
    "OneHot",
    "QActor",
    "Schedule",
    "ScheduleKind",
    "TanhNormal",
    "encoder",
    "make_schedule",
]
