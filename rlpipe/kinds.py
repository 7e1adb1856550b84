"""The words that options take. Here, so that a command line is read without PyTorch."""

from __future__ import annotations

from typing import Literal

Activation = Literal["relu", "tanh", "silu"]
"""Activations between layers, by name."""
Initialization = Literal["default", "orthogonal", "xavier"]
"""Initialisation of linear and convolutional layers; `default` is PyTorch's, the others have zero biases."""
MemoryKind = Literal["gru", "lstm"]
"""Kinds of memory; a GRU has one state, and an LSTM two."""
ScheduleKind = Literal["linear", "exponential", "geometric", "harmonic"]
"""Schedules by name, see `make_schedule`."""
Regression = Literal["mse", "smooth_l1"]
"""How a value is regressed on its target, as PyTorch defines the two: no factor 0.5 in `mse`."""
Normalization = Literal["none", "batch", "episode"]
"""Over what returns are brought to mean 0 and standard deviation 1."""
RewardShaping = Literal["none", "balance", "outcome", "fall", "clip"]
Execution = Literal["eager", "recorded", "compiled", "graphed"]
"""How a gradient is computed, see `make_gradient`."""
