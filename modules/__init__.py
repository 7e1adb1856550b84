"""What is learned, and what acts: TensorDictModules on TorchRL's key names."""

from rlpipe.modules.actors import CategoricalActor, Critic, GaussianActor, QActor
from rlpipe.modules.advantage import GAE
from rlpipe.modules.distributions import Categorical, TanhNormal
from rlpipe.modules.exploration import EpsilonGreedy, Exponential, Geometric, Harmonic, Linear, Schedule
from rlpipe.modules.networks import MLP, Activation, DuelingHead, Flatten, Initialization, OneHot, encoder

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
    "OneHot",
    "QActor",
    "Schedule",
    "TanhNormal",
    "encoder",
]
