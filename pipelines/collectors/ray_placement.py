"""Places for collectors on a Ray cluster: the resources of each, reserved for all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlpipe.errors import ConfigError

START_SECONDS = 60
"""How long Ray may take to find a place for a collector, or to start it there."""


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for each collector.

    Args:
        cpus: processor cores; above 1, Ray takes whole numbers only.
        gpus: likewise; policies act on the CPU all the same.
        memory: MiB; `None` reserves none.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None

    def bundle(self) -> dict[str, float]:
        """By Ray's names, without those that are 0."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": (self.memory or 0) * 2**20}
        return {name: amount for name, amount in named.items() if amount}


class Places:
    """Reserved places for `count` collectors, spread over Ray's machines.

    Raises:
        ConfigError: Ray has less than that, or it stays in use for more than `START_SECONDS`.
    """

    def __init__(self, count: int, resources: Resources) -> None:
        bundle, has = resources.bundle(), ray.cluster_resources()
        for name, amount in bundle.items():
            if amount * count > has.get(name, 0):
                raise ConfigError(
                    f"num_collectors is {count}, each of which asks Ray for {_shown(name, amount)}; it has "
                    f"{_shown(name, has.get(name, 0))} in all"
                )
        self._resources = resources
        # Ray refuses an empty bundle, and none is needed then
        self._group: PlacementGroup | None = placement_group([bundle] * count, strategy="SPREAD") if bundle else None
        if self._group is not None and not self._group.wait(START_SECONDS):
            self.free()
            wanted = ", ".join(_shown(name, amount) for name, amount in bundle.items())
            raise ConfigError(
                f"Ray found no room for {count} collectors within {START_SECONDS} s: others use it, or no machine of "
                f"it has {wanted} for one"
            )

    def options_of(self, index: int) -> dict[str, Any]:
        """The options with which Ray starts an actor in a place."""
        options = {
            "num_cpus": self._resources.cpus,
            "num_gpus": self._resources.gpus,
            "memory": self._resources.bundle().get("memory"),
        }
        if self._group is None:
            return options
        return {**options, "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, index)}

    def free(self) -> None:
        """Release the places."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def _shown(name: str, amount: float) -> str:
    return f"{amount / 2**20:,.0f} MiB of memory" if name == "memory" else f"{amount:g} {name}"
