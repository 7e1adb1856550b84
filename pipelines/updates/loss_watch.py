"""Whether anything that a loss depends on has changed since it was recorded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from operator import attrgetter, is_

from torch import Tensor

from rlpipe.pipelines.updates.introspection import exact, is_plain
from rlpipe.pipelines.updates.loss_contents import LossContents

_TENSOR = attrgetter("requires_grad", "dtype", "device", "shape")
_FORWARD = attrgetter("forward")
_TENSOR_HOOKS = attrgetter("_backward_hooks")


class LossWatch:
    """Compares everything that `roots` hold, see `LossContents`, with what it was.

    With `addresses`, also where tensors are in memory.
    """

    def __init__(self, roots: Sequence[object], addresses: bool = False) -> None:
        self._contents = contents = LossContents(roots)
        self.reason, self.tensors = contents.reason, contents.tensors
        """Why it cannot be watched, empty if it can; and all tensors."""
        self._lengths = list(map(len, contents.sized))
        self._values = self._read()
        self._plain = [index for index, value in enumerate(self._values) if is_plain(value)]
        self._numbers = tuple(exact(self._values[index]) for index in self._plain)
        self._addresses = self._where() if addresses else None
        self._bytes = [array.tobytes() for array in contents.arrays]

    def state(self) -> Hashable | None:
        """The present plain values, such as numbers and names; `None` if anything else has changed."""
        contents = self._contents
        try:
            values = self._read()
        except (KeyError, AttributeError, ValueError, RuntimeError):
            return None
        if any(contents.empty) or self._lengths != list(map(len, contents.sized)) or len(values) != len(self._values):
            return None
        if self._addresses is not None and self._addresses != self._where():
            return None
        if contents.arrays and self._bytes != [array.tobytes() for array in contents.arrays]:
            return None
        if not all(map(is_, values, self._values)) and not self._follow(values):
            return None
        tensors = self.tensors
        return self._numbers, tuple(map(_TENSOR, tensors)), tuple(map(Tensor.stride, tensors))

    def has_tensor_hooks(self) -> bool:
        """Whether any tensor has hooks, which autograd calls."""
        return any(map(_TENSOR_HOOKS, self.tensors))

    def _follow(self, values: list[object]) -> bool:
        """Accept new plain values in the place of plain ones; returns whether nothing else has changed."""
        changed = [index for index, (new, old) in enumerate(zip(values, self._values, strict=True)) if new is not old]
        if not all(is_plain(values[index]) and is_plain(self._values[index]) for index in changed):
            return False
        self._values = values
        self._numbers = tuple(exact(values[index]) for index in self._plain)
        return True

    def _read(self) -> list[object]:
        contents = self._contents
        values: list[object] = [*map(type, contents.objects), *map(_FORWARD, contents.classes)]
        values += chain.from_iterable(contents.iterables)
        for look, source in contents.slots:
            values += look(source)
        return values

    def _where(self) -> list[int]:
        return list(map(Tensor.data_ptr, self.tensors))
