"""Random streams: one seed gives an independent stream for each name."""

from __future__ import annotations

import contextlib
import random
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ONE_AT_A_TIME = threading.RLock()


class Seeds:
    """Streams spawned from one seed by name, so that a new stream changes no other.

    The names in use: `environments`, `normalization`, `initialization`, `exploration`, `ties`, `replay`, `evaluation`,
    `final evaluation`, `gif`, `process`.

    Args:
        seed: 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def integer(self, name: str) -> int:
        """A 63-bit seed for the stream of this name."""
        return spawned(self.seed, zlib.crc32(name.encode()))

    def generator(self, name: str, device: str | torch.device = "cpu") -> torch.Generator:
        """The torch generator of this name; the same one at every call."""
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.integer(name))
        return self._generators[name]

    @contextlib.contextmanager
    def torch_seeded(self, name: str) -> Iterator[None]:
        """Seed PyTorch's global generators within the block, and restore them afterwards."""
        # if no GPU is in use, there is nothing to restore, and asking for its state would initialise it
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(self.integer(name))
            if devices:
                torch.cuda.manual_seed_all(self.integer(name))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator in use, by name."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the generators from a `state_dict`."""
        for name, value in state.items():
            self.generator(name).set_state(value.cpu())

    def saves(self) -> list[torch.Generator]:
        """The generators in use."""
        return list(self._generators.values())


def spawned(seed: int, *key: int) -> int:
    """A 63-bit seed derived from another seed and a key; independent of those of other keys."""
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


class GlobalRandom:
    """The process's own generators, of PyTorch, NumPy and Python, as a component of checkpoints.

    No recipe draws from them while it trains; a reparameterised sample, a network with dropout or noise, or a custom
    environment may.
    """

    def seed(self, seed: int) -> None:
        """Seed all of them."""
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one is meant
        random.seed(seed)

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """Within, other threads wait that want the settings of the process to themselves, as `kept` does."""
        return _ONE_AT_A_TIME

    @contextlib.contextmanager
    def kept(self, seed: int | None = None) -> Iterator[None]:
        """Restore the generators at the end of the block, and PyTorch's threads, default type and determinism.

        Within the block they are seeded if there is a `seed`. Threads wait for one another here, because these, and
        whether policies explore, are settings of the process.
        """
        with self.alone():
            yield from self._kept(seed)

    def _kept(self, seed: int | None) -> Iterator[None]:
        state, first = self.state_dict(), torch.initial_seed()
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        deterministic = torch.get_deterministic_debug_mode()
        if seed is not None:
            self.seed(seed)
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.get_deterministic_debug_mode() != deterministic:
                torch.set_deterministic_debug_mode(deterministic)
            torch.set_default_dtype(dtype)
            if "cuda" not in state and torch.initial_seed() != first:
                # PyTorch keeps the last seed for a GPU that is used later
                torch.cuda.manual_seed_all(first)
            self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """The state of each generator."""
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
        state = {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}
        return state if not torch.cuda.is_initialized() else {**state, "cuda": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generators from a `state_dict`."""
        torch.set_rng_state(state["torch"])
        np.random.set_state(state["numpy"])  # noqa: NPY002 - the global one is meant
        random.setstate(state["python"])
        # this machine may have fewer GPUs; a run uses the first
        for index, own in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(own, index)
