"""Updates made of other updates, and the mean of what several updates return."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from rlpipe.modules.recurrent import state_specs
from rlpipe.pipelines.checkpoints.parts import parts_of, together
from rlpipe.pipelines.pipeline import Update

_LOG = logging.getLogger("rlpipe")

PRIORITY = "priority"
"""The entry of an update that becomes the priority of replayed transitions, `[B]`."""


def every(n: int, update: Update) -> Every:
    """An update at every `n`-th call: calls `n`, `2 * n`, ... In between it returns an empty TensorDict.

    Args:
        n: calls.
        update: a `gradient_step`, or any other update. Its calls are counted in checkpoints.

    Raises:
        ValueError: `n` is not 1 or more.
    """
    return Every(n, update)


def in_turn(*updates: Update, **named: Update) -> InTurn:
    """An update that makes several, one after the other on the same minibatch; their entries are put together.

    Together they count as one update; it is skipped if all that were made are, see `gradient_step`. The entries keep
    their names, so two updates must not return the same; only `grad_norm` is numbered, `grad_norm_1`, `grad_norm_2`, by
    the place of the update. With names, as in `in_turn(critic=..., actor=...)`, every entry gets the name of its
    update, `loss_critic`, `grad_norm_actor`, whatever the others return. `priority` stays.

    Args:
        *updates: such as a `gradient_step` for the critic, and `every(2, ...)` for the actor.
        **named: the same with names.

    Raises:
        ValueError: no updates, or some with a name and some without; in a later call, two entries of the same name.
    """
    if bool(updates) == bool(named):
        raise ValueError(
            f"in_turn has {len(updates)} updates without a name and {len(named)} with one; give it some, and a name "
            "to all or to none"
        )
    return InTurn(list(updates) or list(named.values()), list(named))


class Every:
    """What `every` makes."""

    def __init__(self, n: int, update: Update) -> None:
        if type(n) is not int or n < 1:
            raise ValueError(f"n is {n!r}, allowed is a whole number of 1 or more")
        self.n, self.update, self.calls = n, update, 0

    def __call__(self, minibatch: TensorDictBase) -> TensorDictBase:
        self.calls += 1
        return TensorDict() if self.calls % self.n else self.update(minibatch)

    @property
    def in_keys(self) -> list[NestedKey] | None:
        """What the update reads."""
        return reads(self.update)

    @property
    def parts(self) -> list[Update]:
        """The update."""
        return [self.update]

    @property
    def held(self) -> dict[str, Any]:
        """The counter, and what the update holds."""
        return together({"every": self}, parts_of(self.update))

    def state_dict(self) -> dict[str, int]:
        """The number of calls so far."""
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a `state_dict`."""
        if type(state["calls"]) is not int or state["calls"] < 0:
            raise ValueError(f"calls is {state['calls']!r}, expected a whole number")
        self.calls = state["calls"]


class InTurn:
    """What `in_turn` makes."""

    def __init__(self, updates: Sequence[Update], names: Sequence[str] = ()) -> None:
        self.updates, self.names = list(updates), list(names)

    def __call__(self, minibatch: TensorDictBase) -> TensorDictBase:
        entries: dict[str, Tensor] = {}
        made = []
        for index, update in enumerate(self.updates):
            scalars = dict(update(minibatch).items())
            if not scalars:
                continue
            made.append(taken(scalars))
            scalars.pop("updates", None)
            for key, value in scalars.items():
                name = self._name(key, index)
                if name in entries:
                    advice = "a transition has one" if name == PRIORITY else "give them names: in_turn(critic=..., ...)"
                    raise ValueError(f"two updates of in_turn return {name!r}; {advice}")
                entries[name] = value
        if made and not any(made):
            entries["updates"] = torch.tensor(0)
        return TensorDict(entries)

    @property
    def in_keys(self) -> list[NestedKey] | None:
        """What any of the updates reads; `None` if one does not say."""
        keys = [reads(update) for update in self.updates]
        if any(each is None for each in keys):
            return None
        return list(dict.fromkeys(key for each in keys for key in each or ()))

    @property
    def parts(self) -> list[Update]:
        """The updates."""
        return self.updates

    @property
    def held(self) -> dict[str, Any]:
        """What the updates hold."""
        return together(*map(parts_of, self.updates))

    def _name(self, key: str, index: int) -> str:
        if key == PRIORITY:
            return key
        if self.names:
            return f"{key}_{self.names[index]}"
        return f"{key}_{index + 1}" if key == "grad_norm" and len(self.updates) > 1 else key


def reads(update: Update) -> list[NestedKey] | None:
    """What an update says that it reads, its `in_keys`; `None` if it does not say."""
    keys = getattr(update, "in_keys", None)
    return None if keys is None else list(keys)


def warn_of_single_steps(learn: Any) -> None:
    """Warn of what learns from single steps with the states of a memory: no gradient says what to remember.

    Args:
        learn: has `held` and `in_keys`, and `sequences` if it can keep steps in order.
    """
    states = [key for part in learn.held.values() for key in state_specs(part) if key in learn.in_keys]
    if not states or getattr(learn, "sequences", False):
        return
    can = hasattr(learn, "sequences")
    instead = "with sequences=True it has the steps of an environment in order" if can else "replay has no sequences"
    _LOG.warning(
        "rlpipe: the memory of %r does not learn what to remember, because it learns from single steps; %s",
        states[0],
        instead,
    )


def reader_of(update: Any, key: NestedKey | None = None) -> str:
    """Who reads a key, for messages: the class of a loss, or the name of a function."""
    for part in getattr(update, "parts", ()):
        if key in (reads(part) or ()):
            return reader_of(part, key)
    loss = getattr(update, "loss", None)
    return type(loss).__name__ if loss is not None else getattr(update, "__name__", type(update).__name__)


def taken(scalars: Mapping[str, Tensor]) -> int:
    """The number of gradient steps of an update that returned these: `updates`, or else 1, or 0 if there are none."""
    return int(scalars["updates"]) if "updates" in scalars else int(bool(scalars))


def _scalar(entry: Tensor) -> Tensor:
    entry = entry if entry.is_floating_point() else entry.float()
    return entry.mean() if entry.ndim else entry


def mean_of(scalars: Sequence[TensorDictBase]) -> TensorDictBase:
    """The mean of each entry over the updates that return it, with the number of gradient steps as `updates`.

    An entry with a number a sample, as some of TorchRL's losses return, counts with its mean.
    """
    rows = [{name: _scalar(each) for name, each in update.items()} for update in scalars]
    made = sum(map(taken, rows))
    names = dict.fromkeys(name for row in rows for name in row if name != "updates")
    columns = {name: torch.stack([row[name] for row in rows if name in row]) for name in names}
    return TensorDict({**{name: each.mean(0) for name, each in columns.items()}, "updates": torch.tensor(made)})
