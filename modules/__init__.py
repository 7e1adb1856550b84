"""What is learned, and what acts: TensorDictModules on TorchRL's key names."""

from rlpipe.modules.actors import ActionValueCritic, CategoricalActor, Critic, GaussianActor, QActor, only_allowed
from rlpipe.modules.base import TensorModule, tensor_modules
from rlpipe.modules.distributions import BoxNormal, Categorical, TanhNormal
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
from rlpipe.modules.networks import (
    CNN,
    MLP,
    Activation,
    DuelingHead,
    Flatten,
    Initialization,
    OneHot,
    Pixels,
    Shared,
    computed_once,
    encoder,
)
from rlpipe.modules.tables import ActionValueTable, PreferenceTable

__all__ = [
    "CNN",
    "MLP",
    "ActionValueCritic",
    "ActionValueTable",
    "Activation",
    "BoxNormal",
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
    "OneHot",
    "Pixels",
    "PreferenceTable",
    "QActor",
    "Schedule",
    "ScheduleKind",
    "Shared",
    "TanhNormal",
    "TensorModule",
    "computed_once",
    "encoder",
    "make_schedule",
    "only_allowed",
    "tensor_modules",
]
