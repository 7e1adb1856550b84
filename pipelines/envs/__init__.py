"""Environments: always a batched TorchRL `TransformedEnv`.

Importing this package registers rlpipe's own with Gymnasium: `gymnasium.make("rlpipe.pipelines.envs:rlpipe/Maze-v0")`.
Its names load when they are first used, so that a process that steps an environment imports no PyTorch.
"""

from typing import TYPE_CHECKING

from rlpipe.lazy import loader
from rlpipe.pipelines.envs.builtin.register import register

if TYPE_CHECKING:
    from rlpipe.pipelines.envs.arguments.known import env_spec
    from rlpipe.pipelines.envs.backends.choice import Backend
    from rlpipe.pipelines.envs.config import EnvConfig
    from rlpipe.pipelines.envs.make import make_env
    from rlpipe.pipelines.envs.normalization.running import RunningObservationNorm, RunningRewardNorm
    from rlpipe.pipelines.envs.transforms import BinObservation, OneHotObservation, ShapeReward
    from rlpipe.pipelines.envs.vector import VectorEnv

_HOMES = {
    "Backend": "rlpipe.pipelines.envs.backends.choice",
    "BinObservation": "rlpipe.pipelines.envs.transforms",
    "EnvConfig": "rlpipe.pipelines.envs.config",
    "OneHotObservation": "rlpipe.pipelines.envs.transforms",
    "RunningObservationNorm": "rlpipe.pipelines.envs.normalization.running",
    "RunningRewardNorm": "rlpipe.pipelines.envs.normalization.running",
    "ShapeReward": "rlpipe.pipelines.envs.transforms",
    "VectorEnv": "rlpipe.pipelines.envs.vector",
    "env_spec": "rlpipe.pipelines.envs.arguments.known",
    "make_env": "rlpipe.pipelines.envs.make",
}

__all__ = [
    "Backend",
    "BinObservation",
    "EnvConfig",
    "OneHotObservation",
    "RunningObservationNorm",
    "RunningRewardNorm",
    "ShapeReward",
    "VectorEnv",
    "env_spec",
    "make_env",
]

__getattr__ = loader(__name__, _HOMES)

register()
