"""A pipeline from its parts, and what it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torchrl.envs import ObservationNorm, TransformedEnv

from rlpipe.modules import (
    EpsilonGreedy,
)
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint
from rlpipe.pipelines.envs.transforms import Statistics
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.seeding import Seeds


def make_state(policy: nn.Module, env: TransformedEnv, seeds: Seeds, **parts: Any) -> dict[str, Any]:
    """What a checkpoint holds: the policy, the random streams, the observation statistics if any, and `parts`.

    Parts that are `None` are left out.
    """
    state = {"policy": policy, "random": seeds, **parts}
    statistics = Statistics(each for each in env.transform if isinstance(each, ObservationNorm))
    if len(statistics):
        state["observation_norm"] = statistics
    return {name: part for name, part in state.items() if part is not None}


def load_weights(checkpoint: Path, pipeline: Pipeline) -> None:
    """Take over what another run has learned: networks, tables, observation statistics.

    Its optimiser, random streams and counters are left; exploration begins anew.

    Raises:
        CheckpointError: the checkpoint is damaged, or of other networks.
    """
    load_checkpoint(checkpoint, pipeline.state, ({"policy", "loss"} & set(pipeline.state)) | pipeline.statistics())
    for module in pipeline.policy.modules():
        if isinstance(module, EpsilonGreedy):
            module.frames = module.episodes = 0
