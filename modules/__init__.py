"""What is learned, and what acts: TensorDictModules on TorchRL's key names."""

from rlpipe.kinds import Activation, Initialization, MemoryKind, ScheduleKind
from rlpipe.modules.actors import CategoricalActor, DeterministicActor, GaussianActor, exploring, only_allowed
from rlpipe.modules.base import TensorModule, tensor_modules
from rlpipe.modules.choices import Bernoulli, JointChoices, MultiCategorical
from rlpipe.modules.distributions import BoxNormal, Categorical, TanhNormal
from rlpipe.modules.encoders import Encoder, Flatten, MultiOneHot, OneHot, Pixels, encoder
from rlpipe.modules.exploration import (
    EpsilonGreedy,
    Explorer,
    Exponential,
    GaussianNoise,
    Geometric,
    Harmonic,
    Linear,
    OrnsteinUhlenbeck,
    RandomWarmup,
    Schedule,
    make_schedule,
)
from rlpipe.modules.networks import (
    CNN,
    MLP,
    DuelingHead,
    Network,
    Shared,
    computed_once,
)
from rlpipe.modules.policies import (
    BernoulliActor,
    JointActor,
    JointDistribution,
    MultiCategoricalActor,
    policy_outputs,
    stochastic_actor,
)
from rlpipe.modules.recurrent import Memory, WholeEpisodes, over_episodes
from rlpipe.modules.tables import ActionValueTable, PreferenceTable
from rlpipe.modules.value_networks import ActionValueCritic, Critic, QActor, QuantileActor

__all__ = [
    "CNN",
    "MLP",
    "ActionValueCritic",
    "ActionValueTable",
    "Activation",
    "Bernoulli",
    "BernoulliActor",
    "BoxNormal",
    "Categorical",
    "CategoricalActor",
    "Critic",
    "DeterministicActor",
    "DuelingHead",
    "Encoder",
    "EpsilonGreedy",
    "Explorer",
    "Exponential",
    "Flatten",
    "GaussianActor",
    "GaussianNoise",
    "Geometric",
    "Harmonic",
    "Initialization",
    "JointActor",
    "JointChoices",
    "JointDistribution",
    "Linear",
    "Memory",
    "MemoryKind",
    "MultiCategorical",
    "MultiCategoricalActor",
    "MultiOneHot",
    "Network",
    "OneHot",
    "OrnsteinUhlenbeck",
    "Pixels",
    "PreferenceTable",
    "QActor",
    "QuantileActor",
    "RandomWarmup",
    "Schedule",
    "ScheduleKind",
    "Shared",
    "TanhNormal",
    "TensorModule",
    "WholeEpisodes",
    "computed_once",
    "encoder",
    "exploring",
    "make_schedule",
    "only_allowed",
    "over_episodes",
    "policy_outputs",
    "stochastic_actor",
    "tensor_modules",
]
