"""Places for collectors on a Ray cluster: what each needs, reserved for all of them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlpipe.errors import ConfigError

START_SECONDS = 60
"""After so long a collector for which Ray finds no place, or that does not start there, is given up."""


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for each collector.

    Args:
        cpus: processor cores; more than 1 in whole numbers, as Ray has it.
        gpus: the same; policies act on the CPU in any case.
        memory: MiB; `None` reserves none.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None

    def bundle(self) -> dict[str, float]:
        """As Ray names them; what is 0 is left out."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": (self.memory or 0) * 2**20}
        return {name: amount for name, amount in named.items() if amount}


class Places:
    """Room for some collectors, on as many machines as there are.

    Args:
        count: of collectors.
        resources: of each.

    Raises:
        ConfigError: Ray has not so much, or others use it for more than `START_SECONDS`.
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
        # Ray takes no empty one, and then no place is needed
        self._group: PlacementGroup | None = placement_group([bundle] * count, strategy="SPREAD") if bundle else None
        if self._group is not None and not self._group.wait(START_SECONDS):
            self.free()
            wanted = ", ".join(_shown(name, amount) for name, amount in bundle.items())
            raise ConfigError(
                f"Ray found no room for {count} collectors within {START_SECONDS} s: others use it, or no machine of "
                f"it has {wanted} for one"
            )

    def of(self, index: int) -> dict[str, Any]:
        """The options with which Ray puts an actor into a place."""
        options = {
            "num_cpus": self._resources.cpus,
            "num_gpus": self._resources.gpus,
            "memory": self._resources.bundle().get("memory"),
        }
        if self._group is None:
            return options
        return {**options, "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, index)}

    def free(self) -> None:
        """Give them back."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def _shown(name: str, amount: float) -> str:
    return f"{amount / 2**20:,.0f} MiB of memory" if name == "memory" else f"{amount:g} {name}"
