"""Seeds for the resets of a vector environment."""

from __future__ import annotations

import numpy as np


class ResetSeeds:
    """Gives the next reset its seeds, if it is to have any: an independent one for each environment.

    Without a `first` seed, the first reset has none either. With `takes_list`, the vector environment takes a seed for
    each.
    """

    def __init__(self, first: int | None, num_envs: int, *, takes_list: bool) -> None:
        self.first = self._next = first
        self._num_envs, self._takes_list, self._offset = num_envs, takes_list, 0

    def offset(self, index: int) -> None:
        """Seed the next reset as the environments from `index` on of a larger number, with the same first seed.

        So a few environments play one after the other what many play at once.
        """
        self._next, self._offset = self.first, index

    def derive(self, frames: int | None) -> None:
        """Seed the next reset from the first seed and a frame count; as the first reset if that is `None`."""
        self._next = self.first
        if self.first is not None and frames is not None:
            sequence = np.random.SeedSequence(self.first, spawn_key=(frames,))
            self._next = int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def take(self) -> int | list[int] | None:
        """The seeds of the next reset; later ones continue the environments' own generators."""
        seed, self._next = self._next, None
        begin, self._offset = self._offset, 0
        if seed is None:
            return None
        seeds = distinct_seeds(seed, begin + self._num_envs)[begin:]
        return seeds if self._takes_list else seeds[0]


def distinct_seeds(seed: int | None, count: int, bits: int = 32) -> list[int]:
    """Distinct seeds derived from one; `None` takes that one from the operating system."""
    # twice as many words as needed, because such short ones may repeat
    words = np.random.SeedSequence(seed).generate_state(2 * count) >> (32 - bits)
    return list(dict.fromkeys(words.tolist()))[:count]
