"""Environments: always a batched TorchRL `TransformedEnv`.

Importing this package registers rlpipe's own with Gymnasium: `gymnasium.make("rlpipe.pipelines.envs:rlpipe/Maze-v0")`.
"""

from rlpipe.pipelines.envs.config import Backend, EnvConfig
from rlpipe.pipelines.envs.make import env_spec, make_env
from rlpipe.pipelines.envs.register import register
from rlpipe.pipelines.envs.transforms import BinObservation, OneHotObservation, ShapeReward
from rlpipe.pipelines.envs.vector import VectorEnv

__all__ = [
    "Backend",
    "BinObservation",
    "EnvConfig",
    "OneHotObservation",
    "ShapeReward",
    "VectorEnv",
    "env_spec",
    "make_env",
]

register()
