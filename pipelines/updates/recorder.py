"""The gradient of a loss: computed by autograd, or recorded and replayed without it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from tensordict import TensorDictBase, is_leaf_nontensor
from tensordict.utils import NestedKey
from torch import Tensor, nn

from rlpipe.kinds import Execution
from rlpipe.pipelines.updates.compiler import CompilerError, compiled
from rlpipe.pipelines.updates.cuda_graph import graphed
from rlpipe.pipelines.updates.loss_watch import LossWatch
from rlpipe.pipelines.updates.minibatch_signature import signature_of
from rlpipe.pipelines.updates.replay import Replay, differ, make_replay, snapshot
from rlpipe.pipelines.updates.tape import Tape, share_memory

_LOG = logging.getLogger("rlpipe")
Gradient = tuple[list[Tensor | None], dict[str, Tensor]]
"""The gradient of each parameter, `None` if the loss does not depend on it; and the loss's entries, detached."""

_REPEATS = 10
"""How many minibatches of one signature come before one is recorded; the first is compiled."""
_MOST_SIGNATURES = 4
"""How many recordings there may be."""
_MOST_OPERATIONS = 20_000
"""With more operations, making a recording takes ten seconds and more."""
_PRICE, _PRICE_OF_A_CHANGE = 50, 5
"""How many replays pay for making a recording; and for listing a loss's contents again after a change."""
_CREDIT = _PRICE * 6
"""How many replays may be owed; a loss that owes more is left to autograd."""
_MOST_STATES = 64
"""How many settings of a loss are remembered; those that change at each update do not return."""


def make_gradient(
    loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution = "eager"
) -> Callable[[TensorDictBase], Gradient]:
    """A function from a minibatch to the gradient of the loss's `loss*` entries, summed.

    Args:
        loss: a loss module, ours or TorchRL's.
        parameters: to differentiate by. It is read at each call: a list may change, and a parameter that requires no
            gradient gets `None`.
        execution: `"eager"` runs autograd at each call. `"recorded"` records the tensor operations of loss and gradient
            when minibatches of the same shapes and types have come ten times, and from then on runs only these: the
            same numbers to the bit, without the overhead of autograd, modules and TensorDict. The loss, its attributes
            and the process's settings are watched: after a change, see "What a recording follows" on the performance
            page. Draws from PyTorch's global generator are repeated at each call.
            `"compiled"` compiles the operations with PyTorch's compiler, from the first minibatch on; this takes a
            while, and rounds differently. Without a C++ compiler the operations are recorded.
            `"graphed"` makes each recording a CUDA graph, launched as a whole; minibatches are on a GPU.

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
    """A replay; it returns gradients of the `used` parameters, the loss's entries, and entries for the minibatch."""

    used: list[bool]
    names: list[str]
    written: list[NestedKey]
    replay: Replay = field(init=False)
    overwrites: bool = False
    """Whether it changes the minibatch's tensors in place."""
    exact: bool = False
    """Whether it gives autograd's bits, and runs on the CPU."""
    replays: int = 0

    def __call__(self, minibatch: TensorDictBase, entries: Sequence[Tensor]) -> Gradient:
        computed = iter(self.replay(*entries))
        gradient = [next(computed) if each else None for each in self.used]
        terms = {name: next(computed) for name in self.names}
        for key in self.written:
            minibatch.set(key, next(computed))
        return gradient, terms


@dataclass
class _Setting:
    """What happened while the loss had one setting: how often each signature came, and its recording."""

    seen: Counter[Hashable] = field(default_factory=Counter)
    recordings: dict[Hashable, _Recording] = field(default_factory=dict)


class _Recorder:
    """See `make_gradient`."""

    def __init__(self, loss: nn.Module, parameters: Sequence[nn.Parameter], execution: Execution) -> None:
        self.loss, self.parameters, self.execution = loss, parameters, execution
        self._credit = _CREDIT
        self._warned: set[str] = set()
        self._start_watch()

    def _start_watch(self) -> None:
        self._watch = LossWatch([self.loss, self.parameters], addresses=self.execution == "graphed")
        self._recordings: list[_Recording] = []
        self._states: dict[Hashable, _Setting] = {}
        self._set_to: Hashable = None
        self._state = _Setting()
        self._credit -= _PRICE_OF_A_CHANGE

    def __call__(self, minibatch: TensorDictBase) -> Gradient:
        signature, entries = signature_of(minibatch) if self._credit > 0 else (None, [])
        if signature is None or not self._follow():
            return _differentiate(self.loss, self.parameters, minibatch)
        state = self._state
        recording = state.recordings.get(signature)
        if recording is not None and not (recording.overwrites and share_memory(entries)):
            return self._replay(recording, minibatch, entries)
        if len(state.seen) >= _MOST_STATES:
            state.seen.clear()
        state.seen[signature] += 1
        room = recording is None and len(self._recordings) < _MOST_SIGNATURES and self._credit > _PRICE
        if room and state.seen[signature] == (1 if self.execution == "compiled" else _REPEATS):
            return self._record(signature, minibatch, entries)
        if self.execution == "compiled" and recording is None and len(self._recordings) == _MOST_SIGNATURES:
            self._warn("minibatches and settings of more than four kinds are not compiled; resuming is not exact then")
        return _differentiate(self.loss, self.parameters, minibatch)

    def _follow(self) -> bool:
        """Forget the recordings of a loss that has changed; returns whether it can be recorded at all."""
        now = self._watch.state()
        if now is None:
            self._start_watch()
            now = self._watch.state()
        if now is None or self._credit <= 0:
            self._stop("what it consists of changes all the time")
            return False
        if self._watch.reason or self._watch.has_tensor_hooks():
            self._warn(self._watch.reason or "its tensors have hooks, which may do anything")
            return False
        if now != self._set_to:
            if len(self._states) >= _MOST_STATES:
                self._states = {key: each for key, each in self._states.items() if each.recordings}
            self._set_to, self._state = now, self._states.setdefault(now, _Setting())
        return True

    def _warn(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            _LOG.warning("the gradient of %s is computed by autograd: %s", type(self.loss).__name__, reason)

    def _stop(self, reason: str) -> None:
        """Leave the loss to autograd from now on."""
        self._credit, self._recordings, self._states, self._state = 0, [], {}, _Setting()
        self._warn(reason)

    def _record(self, signature: Hashable, minibatch: TensorDictBase, entries: list[Tensor]) -> Gradient:
        before, around = dict(minibatch.items(True, True)), _surroundings(minibatch)
        restore = snapshot([*self._watch.tensors, *entries]) if self.execution == "compiled" else None
        with Tape() as tape:
            gradient, terms = _differentiate(self.loss, self.parameters, minibatch)
        self._credit -= _PRICE
        if len(tape.operations) > _MOST_OPERATIONS:
            return gradient, terms
        after = dict(minibatch.items(True, True))
        written = {key: each for key, each in after.items() if before.get(key) is not each}
        used = [each is not None for each in gradient]
        outputs = [*[each for each in gradient if each is not None], *terms.values(), *written.values()]
        if tape.draws_elsewhere:
            self._stop("it draws from Python's or NumPy's generator, and not from PyTorch's")
        elif self._watch.state() != self._set_to:
            self._warn("it changes its own attributes each time")
        elif before.keys() - after.keys():
            self._warn("it takes entries out of the minibatch")
        elif around != _surroundings(minibatch):
            self._warn("it changes the minibatch's batch_size, or entries that are not tensors")
        elif tape.writes_into(entries) and share_memory(entries):
            self._warn("it changes entries in place that share their memory")
        elif any(not isinstance(each, Tensor) or each.requires_grad for each in outputs):
            self._warn("what it returns, or writes into the minibatch, is not all tensors without a graph")
        else:
            recording = _Recording(used, list(terms), list(written))
            self._keep(signature, tape, entries, outputs, recording)
            if restore is not None and self._state.recordings.get(signature) is recording:
                # all updates are compiled ones, so that a run that is resumed rounds as if it had never stopped
                restore()
                return recording(minibatch, entries)
        return gradient, terms

    def _keep(
        self, signature: Hashable, tape: Tape, entries: list[Tensor], outputs: list[Tensor], recording: _Recording
    ) -> None:
        tape.check({id(tensor) for tensor in [*entries, *self._watch.tensors]})
        overwritten = tape.writes_into(entries)
        if self.execution == "compiled":
            try:
                replay = compiled(tape, entries, outputs, self._watch.tensors)
            except CompilerError as error:
                self.execution = "recorded"
                _LOG.warning("--compile: the updates are not compiled, but recorded: %s", error)
                return
        else:
            replay = make_replay(tape, entries, outputs, self._watch.tensors)
        if self.execution == "graphed":
            tape.check_graph(overwritten)
            # batch normalisation does not declare that it writes into its buffers
            state = {id(each): each for each in [*self.loss.buffers(), *tape.writes_into(self._watch.tensors)]}
            replay = graphed(replay, entries, list(state.values()))
        recording.replay, recording.overwrites = replay, bool(overwritten)
        recording.exact = self.execution == "recorded" and entries[0].device.type == "cpu"
        self._recordings.append(recording)
        self._state.recordings[signature] = recording

    def _replay(self, recording: _Recording, minibatch: TensorDictBase, entries: list[Tensor]) -> Gradient:
        self._credit += 1
        recording.replays += 1
        if not recording.exact or recording.replays & (recording.replays - 1):
            return recording(minibatch, entries)
        # check the first, second, fourth, eighth ... replay, because not all that a loss depends on can be watched
        copies = [each.clone() for each in entries] if recording.overwrites else entries
        beside = minibatch.copy()
        restore = snapshot(self._watch.tensors)
        replayed = recording(beside, copies)
        restore()
        computed = _differentiate(self.loss, self.parameters, minibatch)
        other = not _same(computed, replayed) or self._watch.state() != self._set_to
        if other or any(differ(minibatch.get(key), beside.get(key)) for key in recording.written):
            self._stop(
                "a recording of it went stale; it depends on what cannot be watched, such as a file, the clock, or "
                "the attributes of an imported module"
            )
        return computed


def _same(one: Gradient, other: Gradient) -> bool:
    (gradient, terms), (others, other_terms) = one, other
    if terms.keys() != other_terms.keys():
        return False
    pairs = [*zip(gradient, others, strict=True), *((term, other_terms[key]) for key, term in terms.items())]
    return not any(differ(*pair) for pair in pairs)


def _surroundings(batch: TensorDictBase) -> tuple[Any, ...]:
    """What a minibatch holds besides its tensors."""
    keys = batch.keys(True, True, is_leaf=is_leaf_nontensor)
    return batch.batch_size, batch.is_locked, set(keys) - set(batch.keys(True, True))
