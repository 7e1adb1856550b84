"""A replay buffer as a component of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict
from torchrl.data import ReplayBuffer, TensorDictReplayBuffer
from torchrl.data.replay_buffers import PrioritizedSampler as StockPrioritizedSampler

from rlpipe.pipelines.fitting import Kind, check_like, check_rows
from rlpipe.pipelines.memory import REPLAY, gpu_memory_for
from rlpipe.pipelines.priorities import PrioritizedSampler
from rlpipe.pipelines.transfer import device_of


class ReplayState:
    """The transitions that a replay buffer holds, no more, where it writes next, and their priorities if it has them.

    Its random generator is a stream of the run's `Seeds`, and saved there.

    Args:
        buffer: with a tensor storage and a writer that goes round; draws uniformly or by rlpipe's `PrioritizedSampler`.
        kinds: what a transition consists of, to refuse a state of others; by default any will do.

    Raises:
        ValueError: it draws by TorchRL's `PrioritizedSampler`.
    """

    def __init__(self, buffer: ReplayBuffer, kinds: Mapping[Any, Kind] | None = None) -> None:
        if isinstance(buffer.sampler, StockPrioritizedSampler):
            raise ValueError(
                "no checkpoint holds the priorities of TorchRL's sampler; rlpipe's PrioritizedSampler has them"
            )
        self.buffer, self._kinds = buffer, kinds

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are views of the buffer's own."""
        held = self.buffer.storage[:] if len(self.buffer) else None
        if held is not None and isinstance(self.buffer, TensorDictReplayBuffer):
            # their places, by which it numbers them itself
            held = held.exclude("index")
        state = {"held": None if held is None else held.to_dict(), "writer": self.buffer.writer.state_dict()}
        return {**state, **self._priorities()}

    def _priorities(self) -> dict[str, Any]:
        sampler = self.buffer.sampler
        return {"priorities": sampler.state_dict()} if isinstance(sampler, PrioritizedSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it holds more than the buffer does, or other transitions, or priorities where that has none.
        """
        self.buffer.empty()
        own = {"held", "writer", *self._priorities()}
        if set(state) != own:
            raise ValueError(f"the state has {sorted(state)}, expected {sorted(own)}")
        if state["held"] is None:
            return
        if self._kinds is not None:
            check_rows(state["held"], self._kinds, "held")
        check_like(self.buffer.writer.state_dict(), state["writer"], "writer")
        held = TensorDict(state["held"], device=device_of(self.buffer.storage)).auto_batch_size_(1)
        limit = self.buffer.storage.max_size
        if not 0 < len(held) <= limit or not 0 <= state["writer"]["_cursor"] < limit:
            raise ValueError(f"{len(held)} transitions, written next at {state['writer']['_cursor']}, of {limit}")
        with gpu_memory_for(*REPLAY):
            self.buffer.extend(held)
        self.buffer.writer.load_state_dict(state["writer"])
        if "priorities" in state:
            self.buffer.sampler.load_state_dict(state["priorities"])
