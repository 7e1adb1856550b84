"""Tables, which tabular methods learn: one row for each Discrete observation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Table(nn.Module):
    """A number for each state and action; a buffer, because tabular methods need no gradient."""

    values: Tensor

    def __init__(self, states: int, actions: int, initial: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((states, actions), initial, dtype=torch.float64))

    def add(self, state: Tensor, action: Tensor, step: Tensor) -> None:
        """Add `step` to the entries of `state` and `action`, `[*B]` each; a pair that comes twice is moved twice."""
        self.values.index_put_((state, action), step.to(self.values.dtype), accumulate=True)

    def rows(self, state: Tensor) -> Tensor:
        """The rows of `state`, integers `[*B]`; any other type is a `ValueError`."""
        if state.is_floating_point():
            raise ValueError(
                f"a table needs Discrete observations, got dtype {state.dtype} and shape {list(state.shape)}; "
                "the transform BinObservation makes them of a Box"
            )
        return self.values[state]


class ActionValueTable(_Table):
    """`Q(s, a)`: states `[*B]` to action values `[*B, A]`, float64, which are `initial` at first."""

    def forward(self, state: Tensor) -> Tensor:
        return self.rows(state)


class PreferenceTable(_Table):
    """Preferences of a softmax policy, Sutton and Barto 2018, section 13.1: states `[*B]` to logits `[*B, A]`, float64.

    `pi(a|s) = softmax(beta * theta(s, .))_a`, where `beta` is the inverse temperature: higher is greedier. Preferences
    are `initial` at first.
    """

    def __init__(self, states: int, actions: int, initial: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(states, actions, initial)
        self.beta = beta

    def forward(self, state: Tensor) -> Tensor:
        return self.beta * self.rows(state)
