"""Environments: always a batched TorchRL `TransformedEnv`."""

from rlpipe.pipelines.envs.config import Backend, EnvConfig
from rlpipe.pipelines.envs.make import env_spec, make_env
from rlpipe.pipelines.envs.transforms import OneHotObservation, ShapeReward
from rlpipe.pipelines.envs.vector import VectorEnv

__all__ = ["Backend", "EnvConfig", "OneHotObservation", "ShapeReward", "VectorEnv", "env_spec", "make_env"]
