"""A replay buffer as a component of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict
from torchrl.data import ReplayBuffer

from rlpipe.pipelines.fitting import Kind, check_like, check_rows


class ReplayState:
    """The transitions that a replay buffer holds, no more, and where it writes next.

    Its random generator is a stream of the run's `Seeds`, and saved there.

    Args:
        buffer: with a tensor storage and a writer that goes round.
        kinds: what a transition consists of.
    """

    def __init__(self, buffer: ReplayBuffer, kinds: Mapping[Any, Kind]) -> None:
        self.buffer, self._kinds = buffer, kinds

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are views of the buffer's own."""
        held = self.buffer[:].to_dict() if len(self.buffer) else None
        return {"held": held, "writer": self.buffer.writer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it holds more than the buffer does, or other transitions.
        """
        self.buffer.empty()
        if state["held"] is None:
            return
        check_rows(state["held"], self._kinds, "held")
        check_like(self.buffer.writer.state_dict(), state["writer"], "writer")
        held = TensorDict(state["held"]).auto_batch_size_(1)
        limit = self.buffer.storage.max_size
        if not 0 < len(held) <= limit or not 0 <= state["writer"]["_cursor"] < limit:
            raise ValueError(f"{len(held)} transitions, written next at {state['writer']['_cursor']}, of {limit}")
        self.buffer.extend(held)
        self.buffer.writer.load_state_dict(state["writer"])
