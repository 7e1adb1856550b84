"""The gradient of a loss: computed by autograd, or recorded once and replayed without it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from tensordict import TensorDictBase, is_leaf_nontensor
from tensordict.utils import NestedKey
from torch import Tensor, nn

from rlpipe.pipelines.devices import Execution
from rlpipe.pipelines.updates.cuda_graph import graphed
from rlpipe.pipelines.updates.loss_watch import Watch
from rlpipe.pipelines.updates.minibatch_kinds import kind_of
from rlpipe.pipelines.updates.tape import Replay, Tape, compiled, script, share_memory

_LOG = logging.getLogger("rlpipe")
Gradient = tuple[list[Tensor | None], dict[str, Tensor]]
"""The gradient of each parameter, `None` where it takes no part; and the loss's entries by name, detached."""

_REPEATS = 10
"""Minibatches of a kind before it is worth recording."""
_MOST_KINDS = 4
"""Kinds that are recorded."""
_MOST_OPERATIONS = 2_000
"""Operations from which on a recording takes longer to make than it can save."""
_PRICE, _PRICE_OF_A_CHANGE = 50, 5
"""Replays that save the time which making a recording takes; and looking anew at all that a loss consists of."""
_CREDIT = _PRICE * 6
"""Replays that may be wanting; a loss that wants more is left to autograd."""
_MOST_STATES = 64
"""Settings of a loss that are remembered; those that change at each update do not come again."""


def make_gradient(
    loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution = "eager"
) -> Callable[[TensorDictBase], Gradient]:
    """A function from a minibatch to the gradient of the loss's `loss*` entries, summed.

    Args:
        loss: a loss module, ours or TorchRL's.
        parameters: to differentiate by. It is read at each call: a list may be changed, and what takes no gradient at
            the time has `None`.
        execution: `"eager"` is autograd at each call. `"recorded"` notes the tensor operations of loss and gradient
            when a kind of minibatch (its shapes and types) has come ten times, and from then on runs these alone: the
            same numbers to the bit, without what autograd, modules and TensorDict cost at each operation. What the loss
            consists of, its attributes and the process's settings are watched: a change is followed, or computed by
            autograd, as "What a recording follows" on the performance page says. Draws of PyTorch's global generator
            are drawn anew each time.
            `"compiled"` has PyTorch's compiler make code of the operations, which takes a while and rounds differently.
            `"graphed"` is `"recorded"`, and each recording a CUDA graph, launched as a whole; minibatches are on a GPU.

    Raises:
        ValueError: an unknown `execution`; in a later call, a loss whose operations depend on the numbers in the batch.
    """
    if execution not in get_args(Execution):
        raise ValueError(f"execution is {execution!r}; allowed are {', '.join(map(repr, get_args(Execution)))}")
    if execution == "eager":
        return lambda minibatch: _differentiate(loss, parameters, minibatch)
    return _Recorder(loss, parameters, execution)


def _differentiate(loss: nn.Module, parameters: Sequence[nn.Parameter], minibatch: TensorDictBase) -> Gradient:
    output = loss(minibatch)
    if not isinstance(output, TensorDictBase):
        raise TypeError(f"{type(loss).__name__} returns a {type(output).__name__}, expected a TensorDict of scalars")
    terms = dict(output.items())
    for key, term in terms.items():
        if key.startswith("loss") and term.numel() != 1:
            raise ValueError(f"{type(loss).__name__} returns {key!r} of shape {list(term.shape)}, expected a scalar")
    total = [term for key, term in terms.items() if key.startswith("loss") and term.requires_grad]
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(total, learning, allow_unused=True) if total and learning else ())
    gradient = [next(found, None) if parameter.requires_grad else None for parameter in parameters]
    return gradient, {key: term.detach() for key, term in terms.items()}


@dataclass
class _Recording:
    """A replay, and what becomes of its outputs: gradients, the loss's entries, and what it writes into the batch."""

    replay: Replay
    used: list[bool]
    names: list[str]
    written: list[NestedKey]
    overwrites: bool
    """Whether it changes the minibatch's tensors in place."""
    exact: bool
    """Whether it gives autograd's bits, and nothing waits for them."""
    replays: int = 0

    def __call__(self, minibatch: TensorDictBase, entries: Sequence[Tensor]) -> Gradient:
        # TorchScript's own optimiser would merge matrix products, and round differently
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            computed = iter(self.replay(*entries))
        gradient = [next(computed) if each else None for each in self.used]
        terms = {name: next(computed) for name in self.names}
        for key in self.written:
            minibatch.set(key, next(computed))
        return gradient, terms


class _State:
    """The kinds of minibatches that have come while the loss was set to something: how often, and their recordings."""

    def __init__(self) -> None:
        self.seen: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, _Recording] = {}


class _Recorder:
    """See `make_gradient`."""

    def __init__(self, loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution) -> None:
        self.loss, self.parameters, self.execution = loss, parameters, execution
        self._credit = _CREDIT
        self._told: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self._watch = Watch([self.loss, self.parameters], addresses=self.execution == "graphed")
        self._recordings: list[_Recording] = []
        self._states: dict[Hashable, _State] = {}
        self._set_to: Hashable = None
        self._state = _State()
        self._credit -= _PRICE_OF_A_CHANGE

    def __call__(self, minibatch: TensorDictBase) -> Gradient:
        kind, entries = kind_of(minibatch) if self._credit > 0 else (None, [])
        if kind is None or not self._follow():
            return _differentiate(self.loss, self.parameters, minibatch)
        state = self._state
        recording = state.recordings.get(kind)
        if recording is not None and not (recording.overwrites and share_memory(entries)):
            return self._replay(recording, minibatch, entries)
        if len(state.seen) >= _MOST_STATES:
            state.seen.clear()
        state.seen[kind] += 1
        room = recording is None and len(self._recordings) < _MOST_KINDS and self._credit > _PRICE
        if room and state.seen[kind] == _REPEATS:
            return self._record(kind, minibatch, entries)
        return _differentiate(self.loss, self.parameters, minibatch)

    def _follow(self) -> bool:
        """Forget the recordings of a loss that is another now; return whether it may be recorded at all."""
        now = self._watch.state()
        if now is None:
            self._begin()
            now = self._watch.state()
        if now is None or self._credit <= 0:
            self._stop("what it consists of changes all the time")
            return False
        if self._watch.reason or self._watch.has_tensor_hooks():
            self._tell(self._watch.reason or "its tensors have hooks, which may do anything")
            return False
        if now != self._set_to:
            if len(self._states) >= _MOST_STATES:
                self._states = {key: each for key, each in self._states.items() if each.recordings}
            self._set_to, self._state = now, self._states.setdefault(now, _State())
        return True

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            _LOG.warning("the gradient of %s is computed by autograd: %s", type(self.loss).__name__, reason)

    def _stop(self, reason: str) -> None:
        """Leave the loss to autograd from now on."""
        self._credit, self._recordings, self._states, self._state = 0, [], {}, _State()
        self._tell(reason)

    def _record(self, kind: Hashable, minibatch: TensorDictBase, entries: list[Tensor]) -> Gradient:
        before, around = _leaves(minibatch), _surroundings(minibatch)
        with Tape() as tape:
            gradient, terms = _differentiate(self.loss, self.parameters, minibatch)
        self._credit -= _PRICE
        if len(tape.operations) > _MOST_OPERATIONS:
            return gradient, terms
        after = _leaves(minibatch)
        written = {key: each for key, each in after.items() if before.get(key) is not each}
        used = [each is not None for each in gradient]
        outputs = [*[each for each in gradient if each is not None], *terms.values(), *written.values()]
        if tape.draws_elsewhere:
            self._stop("it draws from Python's or NumPy's generator, and not from PyTorch's")
        elif self._watch.state() != self._set_to:
            self._tell("it changes its own attributes each time")
        elif before.keys() - after.keys():
            self._tell("it takes entries out of the minibatch")
        elif around != _surroundings(minibatch):
            self._tell("it changes the minibatch's batch_size, or what is no tensor in it")
        elif tape.writes_into(entries) and share_memory(entries):
            self._tell("it changes entries in place that share their memory")
        elif any(not isinstance(each, Tensor) or each.requires_grad for each in outputs):
            self._tell("what it returns, or writes into the minibatch, is not all tensors without a graph")
        else:
            self._keep(kind, tape, entries, outputs, used, list(terms), list(written))
        return gradient, terms

    def _keep(
        self,
        kind: Hashable,
        tape: Tape,
        entries: Sequence[Tensor],
        outputs: Sequence[Tensor],
        used: list[bool],
        names: list[str],
        written: list[NestedKey],
    ) -> None:
        tape.check({id(tensor) for tensor in [*entries, *self._watch.tensors]})
        overwritten = tape.writes_into(entries)
        if self.execution == "compiled":
            with _held([*self._watch.tensors, *overwritten]):
                replay = compiled(tape, entries, outputs)
        else:
            try:
                replay = script(tape, entries, outputs)
            except RuntimeError as error:
                self._stop(f"TorchScript cannot say it: {str(error).strip().splitlines()[0]}")
                return
        if self.execution == "graphed":
            tape.check_graph(overwritten)
            # batch normalisation does not say that it writes into its buffers
            state = {id(each): each for each in [*self.loss.buffers(), *tape.writes_into(self._watch.tensors)]}
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                replay = graphed(replay, entries, list(state.values()))
        exact = self.execution == "recorded" and entries[0].device.type == "cpu"
        recording = _Recording(replay, used, names, written, bool(overwritten), exact)
        self._recordings.append(recording)
        self._state.recordings[kind] = recording

    def _replay(self, recording: _Recording, minibatch: TensorDictBase, entries: list[Tensor]) -> Gradient:
        self._credit += 1
        recording.replays += 1
        if not recording.exact or recording.replays & (recording.replays - 1):
            return recording(minibatch, entries)
        # the first, second, fourth, eighth ... in two ways, as not all that a loss depends on can be watched
        copies = [each.clone() for each in entries] if recording.overwrites else entries
        beside = minibatch.copy()
        with _held(self._watch.tensors):
            try:
                replayed = recording(beside, copies)
            except RuntimeError as error:
                self._stop(f"TorchScript fails: {str(error).strip().splitlines()[-1]}")
                replayed = None
        computed = _differentiate(self.loss, self.parameters, minibatch)
        if replayed is None:
            return computed
        other = not _same(computed, replayed) or self._watch.state() != self._set_to
        if other or any(_differ(minibatch.get(key), beside.get(key)) for key in recording.written):
            self._stop(
                "a recording of it went stale; it depends on what cannot be watched, such as a file, the clock, or "
                "the attributes of an imported module"
            )
        return computed


@contextmanager
def _held(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Within, tensors and PyTorch's generator may change; then they are as they were."""
    kept = [each.detach().clone() for each in tensors]
    with torch.random.fork_rng(devices=[]):
        yield
    with torch.no_grad():
        for each, before in zip(tensors, kept, strict=True):
            each.copy_(before)


def _same(one: Gradient, other: Gradient) -> bool:
    (gradient, terms), (others, other_terms) = one, other
    if terms.keys() != other_terms.keys():
        return False
    pairs = [*zip(gradient, others, strict=True), *((term, other_terms[key]) for key, term in terms.items())]
    return not any(_differ(*pair) for pair in pairs)


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors differ in any bit; so a NaN is equal to itself."""
    if one is None or other is None:
        return one is not other
    if one.dtype != other.dtype or one.shape != other.shape:
        return True
    bits = [each.detach().reshape(-1).contiguous().view(torch.uint8) for each in (one, other)]
    return not torch.equal(*bits)


def _surroundings(batch: TensorDictBase) -> tuple[Any, ...]:
    """What a minibatch is beside its tensors."""
    others = set(batch.keys(True, True, is_leaf=is_leaf_nontensor)) - set(batch.keys(True, True))
    return batch.batch_size, batch.is_locked, others


def _leaves(batch: TensorDictBase) -> dict[NestedKey, Tensor]:
    return dict(batch.items(True, True))
