"""Gated recurrent units over sequences, with resets between steps and a gradient in half of autograd's operations.

PyTorch's own loops take no resets within a sequence. Autograd multiplies for the gradient of the recurrent weights at
each step; here one multiplication at the end covers all steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class UnrollGRU(torch.autograd.Function):
    """Cho et al. 2014, in PyTorch's form: `h' = (1 - z) n + z h`, `n = tanh(W x + r (U h))`.

    Args of `apply`:
        inputs: `[B, T, 3 H]`, the input's share of the gates, biases included, in PyTorch's order: r, z, n.
        keep: `[B, T, 1]`, 0 where a step begins an episode, else 1.
        hidden: `[B, H]`, the state before the first step.
        weight: `[3 H, H]`, recurrent.
        bias: `[3 H]`, recurrent.

    Returns:
        The states after each step, `[B, T, H]`.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, keep: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = hidden.shape[-1]
        gates, candidates = (each.unbind(1) for each in inputs.split([2 * size, size], -1))
        before, opened, recalled, new, after = [], [], [], [], []
        for gate, candidate, kept in zip(gates, candidates, keep.unbind(1), strict=True):
            before.append(hidden * kept)
            both, recall = F.linear(before[-1], weight, bias).split([2 * size, size], -1)
            opened.append((gate + both).sigmoid())
            reset, update = opened[-1].chunk(2, -1)
            recalled.append(recall)
            new.append(torch.addcmul(candidate, reset, recall).tanh())
            hidden = torch.lerp(new[-1], before[-1], update)
            after.append(hidden)
        ctx.save_for_backward(keep, weight, *(torch.stack(each, 1) for each in (before, opened, recalled, new)))
        return torch.stack(after, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keep, weight, before, opened, recalled, new = ctx.saved_tensors
        reset, update = opened.chunk(2, -1)
        to_new = (1 - update) * (1 - new * new)
        to_update = (before - new) * update * (1 - update)
        to_reset = recalled * reset * (1 - reset)
        # of the gates r, z and n, in terms of the gradient of n and of the state
        each_step = [each.unbind(1) for each in (grad, to_new, to_update, to_reset, reset, update, keep)]
        of_state, of_inputs, of_gates = torch.zeros_like(before[:, 0]), [], []
        for out, by_new, by_update, by_reset, open_reset, open_update, kept in _backwards(each_step):
            of_state = of_state + out
            of_new = of_state * by_new
            of_opened = torch.cat([of_new * by_reset, of_state * by_update], -1)
            of_inputs.append(torch.cat([of_opened, of_new], -1))
            of_gates.append(torch.cat([of_opened, of_new * open_reset], -1))
            of_state = torch.addmm(of_state * open_update, of_gates[-1], weight) * kept
        flat = torch.stack(of_gates[::-1], 1).flatten(0, 1)
        return torch.stack(of_inputs[::-1], 1), None, of_state, flat.mT @ before.flatten(0, 1), flat.sum(0)


class UnrollLSTM(torch.autograd.Function):
    """Hochreiter and Schmidhuber 1997, with a forget gate: `c' = f c + i g`, `h' = o tanh(c')`.

    Args of `apply`:
        inputs: `[B, T, 4 H]`, the input's share of the gates, biases included, in PyTorch's order: i, f, g, o.
        keep: `[B, T, 1]`, 0 where a step begins an episode, else 1.
        hidden: `[B, H]`, before the first step.
        cell: `[B, H]`, before the first step.
        weight: `[4 H, H]`, recurrent; the recurrent biases are among the `inputs`.

    Returns:
        Hidden and cell states after each step, each `[B, T, H]`; gradients flow through the hidden ones.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, keep: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = hidden.shape[-1]
        states, cells, opened, written, after, cells_after = [], [], [], [], [], []
        for given, kept in zip(inputs.unbind(1), keep.unbind(1), strict=True):
            states.append(hidden * kept)
            cells.append(cell * kept)
            gates = torch.addmm(given, states[-1], weight.mT)
            into, forget, write, out = gates.split(size, -1)
            opened.append(torch.cat([into, forget, out], -1).sigmoid())
            into, forget, out = opened[-1].chunk(3, -1)
            written.append(write.tanh())
            cell = torch.addcmul(forget * cells[-1], into, written[-1])
            hidden = out * cell.tanh()
            after.append(hidden)
            cells_after.append(cell)
        all_cells = torch.stack(cells_after, 1)
        ctx.save_for_backward(
            keep, weight, all_cells, *(torch.stack(each, 1) for each in (states, cells, opened, written))
        )
        ctx.mark_non_differentiable(all_cells)
        return torch.stack(after, 1), all_cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        keep, weight, after, states, cells, opened, written = ctx.saved_tensors
        into, forget, out = opened.chunk(3, -1)
        bent = after.tanh()
        to_cell, to_out = out * (1 - bent * bent), bent * out * (1 - out)
        to_into, to_write = written * into * (1 - into), into * (1 - written * written)
        to_forget = cells * forget * (1 - forget)
        from_cell = torch.cat([to_into, to_forget, to_write], -1)
        each_step = [each.unbind(1) for each in (grad, to_cell, to_out, from_cell, forget, keep)]
        of_state = of_cell = torch.zeros_like(states[:, 0])
        of_gates = []
        for given, by_cell, by_out, by_gates, open_forget, kept in _backwards(each_step):
            of_state = of_state + given
            of_cell = torch.addcmul(of_cell, of_state, by_cell)
            of_gates.append(torch.cat([of_cell.repeat(1, 3) * by_gates, of_state * by_out], -1))
            of_state = of_gates[-1] @ weight * kept
            of_cell = of_cell * open_forget * kept
        of_inputs = torch.stack(of_gates[::-1], 1)
        return of_inputs, None, of_state, of_cell, of_inputs.flatten(0, 1).mT @ states.flatten(0, 1)


def _backwards(each_step: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """What belongs to a step, from the last to the first."""
    return reversed(list(zip(*each_step, strict=True)))
