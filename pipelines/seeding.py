"""Random streams: one seed, and from it an independent stream for each name."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class Seeds:
    """Streams spawned from one seed by name, so that adding a stream moves no other.

    The names in use: `environments`, `normalization`, `initialization`, `exploration`, `ties`, `replay`, `evaluation`,
    `final evaluation`, `gif`.

    Args:
        seed: 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def integer(self, name: str) -> int:
        """A 63-bit seed for the stream of this name."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()),))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def generator(self, name: str, device: str | torch.device = "cpu") -> torch.Generator:
        """The torch generator of this name; the same one at every call."""
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.integer(name))
        return self._generators[name]

    @contextlib.contextmanager
    def torch_seeded(self, name: str) -> Iterator[None]:
        """Seed PyTorch's global CPU generator within the block, and put it back afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.integer(name))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator handed out, by name."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put the generators back where `state_dict` found them."""
        for name, value in state.items():
            self.generator(name).set_state(value.cpu())
