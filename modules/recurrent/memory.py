"""What a policy remembers of an episode: a GRU or an LSTM between its first layers and its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import GRUModule, LSTMModule

from rlpipe.modules.base import Keys, TensorModule
from rlpipe.modules.networks import ComputedOnce, Initialization
from rlpipe.modules.recurrent.unroll import UnrollGRU, UnrollLSTM

if TYPE_CHECKING:
    from typing_extensions import Unpack

MemoryKind = Literal["gru", "lstm"]
"""Kinds of memory; a GRU has one state, and an LSTM two."""
FIRST = "is_init"
"""The entry, bool `[*B, 1]`, that says which steps begin an episode; the name is that of TorchRL's `InitTracker`."""


class Memory(TensorModule, ComputedOnce):
    """A recurrent layer with TorchRL's `GRUModule` or `LSTMModule` inside, its keys and its shapes.

    Reads what its network reads, `is_init` `[*B, 1]`, and its state before the step, `[*B, 1, size]`:
    `recurrent_state`, or with an LSTM `recurrent_state_h` and `recurrent_state_c`. Writes `memory` `[*B, size]`, and
    the state after the step under `next`. A step that begins an episode does not use the state.

    A batch `[num_envs]` is one step of each environment. A batch `[num_envs, T]` is a sequence of each: it runs over
    the steps in order, from the state at the first one, and the gradient flows back through all of them; later states
    of the batch are not read.

    Args:
        network: what `in_keys` hold to features `[*B, features]`; `None` takes the observation as it is.
        features: how many.
        size: of the memory.
        kind: `"gru"` or `"lstm"`.
        initialization: of the recurrent layer: `"default"` is PyTorch's, `"orthogonal"` has gain 1 and zero biases; or
            `"xavier"`.
        state: name of the state; two memories of one policy need two.
        keys: `in_keys` and `out_keys`, see `TensorModule`.

    Raises:
        ValueError: another kind, or keys of another number.
    """

    def __init__(
        self,
        network: nn.Module | None,
        features: int,
        size: int,
        kind: MemoryKind = "gru",
        initialization: Initialization = "default",
        state: str = "recurrent_state",
        **keys: Unpack[Keys],
    ) -> None:
        super().__init__()
        if kind not in ("gru", "lstm"):
            raise ValueError(f"kind of Memory is {kind!r}; allowed are 'gru' and 'lstm'")
        states = [state] if kind == "gru" else [f"{state}_h", f"{state}_c"]
        after: list[NestedKey] = [("next", each) for each in states]
        self.name_keys(network, [FIRST, *states], ["memory", *after], **keys)
        self.network, self.kind, self.size, self.states = network, kind, size, states
        stock: Any = GRUModule if kind == "gru" else LSTMModule
        self.rnn = stock(features, size, in_keys=["memory", *states], out_keys=["memory", *after])
        self._initialize(initialization)

    def _initialize(self, kind: Initialization) -> None:
        if kind == "default":
            return
        for name, parameter in self.layer.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                {"orthogonal": nn.init.orthogonal_, "xavier": nn.init.xavier_uniform_}[kind](parameter)

    @property
    def layer(self) -> Any:
        """PyTorch's layer, which has the weights."""
        return self.rnn.gru if self.kind == "gru" else self.rnn.lstm

    def blank(self, batch: Sequence[int], device: torch.device | None = None) -> dict[NestedKey, Tensor]:
        """The states before an episode, zeros `[*batch, 1, size]`."""
        return {each: torch.zeros(*batch, 1, self.size, device=device) for each in self.states}

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.once(inputs, self._compute)

    def _compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        entries, first, states = self._apart(inputs)
        features = entries[0] if self.network is None else self.through(self.network, *entries)
        if states[0].ndim > 3:
            return self._unroll(features, first, states)
        states = [each.squeeze(-2).masked_fill(first, 0.0) for each in states]
        weights = self.layer._flat_weights
        if self.kind == "gru":
            after = [torch.gru_cell(features, states[0], *weights)]
        else:
            after = list(torch.lstm_cell(features, states, *weights))
        return after[0], *(each.unsqueeze(-2) for each in after)

    def _apart(self, inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor]]:
        """The network's entries, `is_init` and the states."""
        own = len(self.states)
        return inputs[: -own - 1], inputs[-own - 1], inputs[-own:]

    def _unroll(self, features: Tensor, first: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        before = [each[:, 0].squeeze(-2) for each in states]
        keep = (~first).to(features.dtype)
        into, recurrent, bias, recurrent_bias = self.layer._flat_weights
        if self.kind == "gru":
            after = [UnrollGRU.apply(F.linear(features, into, bias), keep, *before, recurrent, recurrent_bias)]
        else:
            inputs = F.linear(features, into, bias + recurrent_bias)
            after = UnrollLSTM.apply(inputs, keep, *before, recurrent)
        return after[0], *(each.unsqueeze(-2) for each in after)


class WholeEpisodes(TensorDictModuleBase):
    """A memory over whole episodes one after the other, `[steps]`: each runs from its beginning, side by side.

    Reads and writes what `memory` does, but for its states, which begin blank. What it does depends on the lengths of
    the episodes, so that it cannot be recorded: the `execution` of a gradient step with it is `"eager"`.

    Args:
        memory: whose weights it uses.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.in_keys = memory.in_keys[: -len(memory.states)]
        self.out_keys = memory.out_keys[:1]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        *entries, first = (tensordict.get(key) for key in self.in_keys)
        starts = first.squeeze(-1).clone()
        starts[0] = True
        episode = starts.cumsum(0) - 1
        step = torch.arange(len(starts), device=starts.device)
        step = step - step[starts][episode]
        rows, steps = int(episode[-1]) + 1, int(step.max()) + 1
        padded = [each.new_zeros(rows, steps, *each.shape[1:]) for each in (*entries, first)]
        for each, whole in zip(padded, (*entries, first), strict=True):
            each[episode, step] = whole
        blank = self.memory.blank((rows, steps), starts.device)
        output, *_ = self.memory.compute(*padded, *blank.values())
        return tensordict.set(self.out_keys[0], output[episode, step])


def memories(policy: nn.Module) -> list[Memory]:
    """Those of a policy."""
    return [each for each in policy.modules() if isinstance(each, Memory)]
