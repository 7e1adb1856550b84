"""What a Config says of Ray: which cluster, and what it reserves for each collector."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from rlpipe.errors import ConfigError
from rlpipe.pipelines.fields import number


@dataclass(frozen=True)
class RayConfig:
    """Where and with what Ray places collectors."""

    ray_address: str | None = None
    """`HOST:PORT` of the head of a Ray cluster; without, Ray is started on this machine for the run."""
    ray_cpus: float = number(1.0, at_least=0, at_most=10_000)
    """Processor cores that Ray reserves for each collector; more than 1 in whole numbers."""
    ray_gpus: float = number(0.0, at_least=0, at_most=1_000)
    """GPUs that Ray reserves for each collector, for environments that need one; policies act on the CPU there."""
    ray_memory: int | None = number(None, at_least=1, at_most=100_000_000)
    """Memory that Ray reserves for each collector, in MiB."""

    def check_ray(self, collector: str) -> None:
        """Refuse an address that is none, amounts that Ray does not take, and options that have no effect.

        Raises:
            ConfigError: names the field.
        """
        for each in fields(RayConfig):
            # seeds may be tasks of a cluster (`--jobs ray`) whatever collects within them: `Session` sees to this one
            if each.name != "ray_address" and collector != "ray" and getattr(self, each.name) != each.default:
                raise ConfigError(
                    f"{each.name} is {getattr(self, each.name)} with collector {collector!r}; set collector to 'ray'"
                )
        if self.ray_address is not None:
            split_address(self.ray_address)
        for name in ("ray_cpus", "ray_gpus"):
            amount = getattr(self, name)
            if amount > 1 and amount % 1:
                raise ConfigError(f"{name} is {amount}; allowed are numbers up to 1, and whole ones above")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`.

    Raises:
        ConfigError: it is no such text.
    """
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65_536 or re.search(r"[\s/@]", host):
        raise ConfigError(f"ray_address is {address!r}; expected HOST:PORT, as `ray start --head` prints it")
    return host.strip("[]"), int(port)
