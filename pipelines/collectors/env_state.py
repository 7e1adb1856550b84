"""What a checkpoint knows of the environments of a collector, so that a resumed run goes on as if never stopped."""

from __future__ import annotations

import logging
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlpipe.errors import TrainingError
from rlpipe.pipelines.checkpoints.encoding import Tensors, decode, encode
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.envs.backends.batch_checker import Arrays
from rlpipe.pipelines.envs.vector import VectorEnv

_LOG = logging.getLogger("rlpipe")
_PIECES = 1_000


class Environments:
    """The environments of a lean collector, and its counters, as a component of checkpoints.

    Environments that can be captured are, in the middle of their episodes (`captured`). All others are reset at each
    planned checkpoint, with seeds that follow from their first seed and the frames collected (`synchronised`): before,
    `cut` ends their episodes in the batch, and after, `synchronise` resets them, in a run that is resumed there later
    as in one that is not. A checkpoint elsewhere, such as at Ctrl-C, brings them back by taking the actions since then
    once more, if they were noted; else, or where that does not lead to the same observations, fresh episodes begin.

    Args:
        collector: a lean `SyncDataCollector`.
    """

    def __init__(self, collector: Any) -> None:
        self._collector = collector
        self._env: VectorEnv = collector.env.base_env
        self.captured = self._env.can_capture() and _can_keep(self._env)
        self._synchronised: int | None = None
        self._actions: list[Tensor] | None = None

    @property
    def kind(self) -> str:
        """`captured` or `synchronised`."""
        return "captured" if self.captured else "synchronised"

    def note_actions(self) -> None:
        """From now on, remember the actions since the last planned checkpoint; nothing to do if captured."""
        if not self.captured and self._actions is None:
            self._actions = []
            self._collector.note = self._note

    def _note(self, batch: TensorDictBase) -> None:
        actions = self._actions or []
        actions.append(batch.get("action").cpu())
        self._actions = [torch.cat(actions, 1)] if len(actions) > _PIECES else actions

    def cut(self, batch: TensorDictBase) -> None:
        """`cut` a batch; nothing to do if captured."""
        if not self.captured:
            cut(batch)

    def synchronise(self, frames: int | None) -> None:
        """Reset every environment, by seeds that follow from `frames`, or the first ones; nothing to do if captured."""
        if self.captured:
            return
        self._synchronised, self._actions = frames, None if self._actions is None else []
        self._env.reseed(frames)
        self._collector.reset()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        frames, iterations = self._collector.position
        state = {"kind": self.kind, "frames": frames, "iterations": iterations, "root": self._env.root}
        if self.captured:
            return {**state, "envs": self._env.get_state()}
        actions = torch.cat(self._actions, 1) if self._actions else None
        return {**state, "synchronised": self._synchronised, "actions": actions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it is a state of other environments.
        """
        if state["kind"] != self.kind:
            raise ValueError(f"environments were {state['kind']}, and are {self.kind} now")
        # before the first batch, TorchRL's collectors count -1 of them
        if any(
            type(state[name]) is not int or state[name] < least for name, least in (("frames", 0), ("iterations", -1))
        ):
            raise ValueError("frames and iterations are expected to be whole numbers")
        self._collector.position = state["frames"], state["iterations"]
        if self.captured:
            self._env.set_state(state["envs"])
            return
        self._replay(state)

    def _replay(self, state: dict[str, Any]) -> None:
        check_like(self._env.root, state["root"], "root")
        if type(state["synchronised"]) not in (int, type(None)):
            raise ValueError(f"synchronised is {state['synchronised']!r}, expected a whole number")
        self.synchronise(state["synchronised"])
        if self._leads_to(state["actions"], state["root"]):
            return
        _LOG.warning(
            "rlpipe: the same seeds and actions do not lead to the same observations: the run goes on, but with other "
            "episodes than it would have had"
        )
        self.synchronise(state["frames"])

    def _leads_to(self, actions: Tensor | None, root: Arrays) -> bool:
        """Take noted actions once more, and say whether the environments observe what they did."""
        if actions is not None:
            self._actions = None if self._actions is None else [actions]
            try:
                for action in actions.unbind(1):
                    self._env.advance(action.numpy())
            except TrainingError:
                return False
        return all((self._env.root[key] == array).all() for key, array in root.items())


def cut(batch: TensorDictBase) -> None:
    """End every episode with the last step of a batch `[num_envs, T]`, as truncated."""
    after = batch.get("next")
    running = ~after.get("done")[:, -1]
    for key in ("done", "truncated"):
        after.get(key)[:, -1] |= running


def _can_keep(env: VectorEnv) -> bool:
    """Whether environments take back the state that they offer, and a checkpoint can hold it."""
    before: Tensors = {}
    after: Tensors = {}
    try:
        state = encode(env.get_state(), before)
        env.set_state(decode(state, before))
        again = encode(env.get_state(), after)
    except Exception:  # methods of these names that mean something else may fail in any way
        return False
    return bool(state == again and all(torch.equal(before[name], after[name]) for name in before))
