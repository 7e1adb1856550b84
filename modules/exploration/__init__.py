"""What adds random actions behind a policy, and the schedules of how many."""

from rlpipe.kinds import ScheduleKind
from rlpipe.modules.exploration.epsilon import EpsilonGreedy
from rlpipe.modules.exploration.explorer import Explorer
from rlpipe.modules.exploration.noise import GaussianNoise, OrnsteinUhlenbeck
from rlpipe.modules.exploration.schedules import (
    Exponential,
    Geometric,
    Harmonic,
    Linear,
    Schedule,
    make_schedule,
)
from rlpipe.modules.exploration.warmup import RandomWarmup

__all__ = [
    "EpsilonGreedy",
    "Explorer",
    "Exponential",
    "GaussianNoise",
    "Geometric",
    "Harmonic",
    "Linear",
    "OrnsteinUhlenbeck",
    "RandomWarmup",
    "Schedule",
    "ScheduleKind",
    "make_schedule",
]
