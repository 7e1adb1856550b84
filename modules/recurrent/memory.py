"""What a policy remembers of an episode: a GRU or an LSTM between its first layers and its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import GRUModule, LSTMModule

from rlpipe.kinds import Initialization, MemoryKind
from rlpipe.modules.base import Keys, TensorModule
from rlpipe.modules.networks import ComputedOnce
from rlpipe.modules.recurrent.states import FIRST, after
from rlpipe.modules.recurrent.unroll import UnrollGRU, UnrollLSTM

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Memory(TensorModule, ComputedOnce):
    """A recurrent layer with TorchRL's `GRUModule` or `LSTMModule` inside, its keys and its shapes.

    Reads what its network reads, `is_init` `[*B, 1]`, and its state before the step, `[*B, 1, size]`:
    `recurrent_state`, or with an LSTM `recurrent_state_h` and `recurrent_state_c`. Writes `memory` `[*B, size]`, and
    the state after the step under `next`. A step that begins an episode does not use the state.

    A batch `[num_envs]`, or `[]` of a single environment, is one step. A batch `[num_envs, T]` is a sequence of each
    environment: it runs over the steps in order, from the state at the first one, and the gradient flows back through
    all of them; later states of the batch are not read.

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
        ValueError: another kind, keys of another number, or several `in_keys` without a network; in a later call, a
            batch of more dimensions.
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
        written: list[NestedKey] = ["memory", *map(after, states)]
        self.name_keys(network, [FIRST, *states], written, **keys)
        read = self.in_keys[: -1 - len(states)]
        if network is None and len(read) > 1:
            raise ValueError(f"in_keys of Memory are {read}, which need a network that joins them, such as an Encoder")
        if self.out_keys[1:] != written[1:]:
            raise ValueError(f"out_keys of Memory are {self.out_keys}; the last must be {written[1:]}, its states")
        self.network, self.kind, self.size, self.states = network, kind, size, states
        stock: Any = GRUModule if kind == "gru" else LSTMModule
        self.rnn = stock(features, size, in_keys=["memory", *states], out_keys=written)
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
        if first.ndim > 3:
            raise ValueError(f"Memory got a batch {list(first.shape[:-1])}; expected [num_envs] or [num_envs, T]")
        if first.ndim == 3:
            return self._unroll(features, first, states)
        states = [each.squeeze(-2).masked_fill(first, 0.0) for each in states]
        weights = self.layer._flat_weights
        # cells take one dimension of a batch
        if first.ndim == 1:
            features, states = features.unsqueeze(0), [each.unsqueeze(0) for each in states]
        if self.kind == "gru":
            new = [torch.gru_cell(features, states[0], *weights)]
        else:
            new = list(torch.lstm_cell(features, states, *weights))
        if first.ndim == 1:
            new = [each.squeeze(0) for each in new]
        return new[0], *(each.unsqueeze(-2) for each in new)

    def _apart(self, inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor, Sequence[Tensor]]:
        """The network's entries, `is_init` and the states."""
        own = len(self.states)
        return inputs[: -own - 1], inputs[-own - 1], inputs[-own:]

    def _unroll(self, features: Tensor, first: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        before = [each[:, 0].squeeze(-2) for each in states]
        keep = (~first).to(features.dtype)
        into, recurrent, bias, recurrent_bias = self.layer._flat_weights
        if self.kind == "gru":
            new = [UnrollGRU.apply(F.linear(features, into, bias), keep, *before, recurrent, recurrent_bias)]
        else:
            inputs = F.linear(features, into, bias + recurrent_bias)
            new = UnrollLSTM.apply(inputs, keep, *before, recurrent)
        return new[0], *(each.unsqueeze(-2) for each in new)


class WholeEpisodes(TensorModule):
    """A memory over whole episodes one after the other, `[steps]`: each runs from its beginning, side by side.

    Reads and writes what `memory` does, but for its states, which begin blank. What it does depends on the lengths of
    the episodes, so that it cannot be recorded: the `execution` of a gradient step with it is `"eager"`.

    Args:
        memory: whose weights it uses.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.in_keys, self.out_keys = memory.in_keys[: -len(memory.states)], memory.out_keys[:1]

    def compute(self, *inputs: Tensor) -> tuple[Tensor]:
        # actor and critic have one of these each, and the memory together
        found: tuple[Tensor] = self.memory.once(inputs, self._compute)
        return found

    def _compute(self, *inputs: Tensor) -> tuple[Tensor]:
        starts = inputs[-1].squeeze(-1).clone()
        starts[0] = True
        episode = starts.cumsum(0) - 1
        step = torch.arange(len(starts), device=starts.device)
        step = step - step[starts][episode]
        batch = int(episode[-1]) + 1, int(step.max()) + 1
        padded = []
        for each in inputs:
            padded.append(each.new_zeros(*batch, *each.shape[1:]))
            padded[-1][episode, step] = each
        output, *_ = self.memory._compute(*padded, *self.memory.blank(batch, starts.device).values())
        return (output[episode, step],)


def over_episodes(network: TensorDictModuleBase) -> TensorDictModuleBase:
    """The network for a loss of whole episodes one after the other, `[steps]`, with the same weights.

    In place of each `Memory` of a sequence of modules is `WholeEpisodes` of it.
    """
    if not isinstance(network, TensorDictSequential):
        return network
    parts = [network[index] for index in range(len(network))]
    if not any(isinstance(each, Memory) for each in parts):
        return network
    return TensorDictSequential(*(WholeEpisodes(each) if isinstance(each, Memory) else each for each in parts))


def remembering(memory: Memory | None, network: TensorDictModuleBase) -> TensorDictModuleBase:
    """The network behind a memory, if there is one."""
    return network if memory is None else TensorDictSequential(memory, network)
