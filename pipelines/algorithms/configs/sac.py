"""The options of SAC."""

from __future__ import annotations

from dataclasses import dataclass

from rlpipe.pipelines.config.continuous import ContinuousConfig
from rlpipe.pipelines.config.fields import LARGEST, number


@dataclass(frozen=True)
class Config(ContinuousConfig):
    """SAC, with the networks and rates that are usual for it."""

    alpha: float = number(1.0, above=0, at_most=1e6)
    """Temperature, the weight of the entropy; the first one if it is learned."""
    learn_alpha: bool = True
    """Learn the temperature that keeps the policy's entropy at `target_entropy`."""
    target_entropy: float | None = number(None, at_least=-LARGEST, at_most=LARGEST)
    """Entropy in nats of actions scaled to -1 to 1; by default minus the number of elements of an action."""
