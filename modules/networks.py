"""Networks from an observation to a vector of outputs."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, get_args

import torch
from tensordict.utils import NestedKey
from torch import Tensor, nn

from rlpipe.kinds import Activation, Initialization
from rlpipe.modules.base import keys_read
from rlpipe.modules.images import ImageLayout

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Tanh(nn.Module):
    """The hyperbolic tangent, computed as `2 sigmoid(2 x) - 1`: within 2e-7 of PyTorch's, in a third of its time."""

    minus_one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("minus_one", torch.tensor(-1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # three operations: for small batches, their number decides the time
        return torch.add(self.minus_one, torch.sigmoid(x + x), alpha=2.0)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": Tanh, "silu": nn.SiLU}


def initialize(layer: Layer, kind: Initialization, gain: float = math.sqrt(2)) -> Layer:
    """Initialise a linear or convolutional layer in place.

    PyTorch's default, or with zero bias orthogonal (Saxe et al. 2014; a convolution is a matrix with a row for each
    output channel) or Xavier uniform (Glorot and Bengio 2010; `gain` is 1).
    """
    if kind == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    if kind == "orthogonal":
        nn.init.orthogonal_(layer.weight, gain)
    if kind != "default" and layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _check_name(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


class CNN(nn.Sequential):
    """The convolutions of the DQN papers (Mnih et al. 2015, Methods): images `[*B, *image]` to `[*B, features]`.

    32 filters of 8x8 with stride 4, 64 of 4x4 with stride 2, 64 of 3x3 with stride 1, a ReLU after each. 84x84 pixels
    give 3,136 features; the papers' network is `nn.Sequential(CNN((4, 84, 84)), MLP(3136, n, (512,)))`.

    Takes numbers from 0 to 255, usually uint8, and divides them by 255 on their device. Channels may be first or last,
    `[C, H, W]` or `[H, W, C]`: last if the last dimension is smaller than the first. Several images in one observation,
    `[S, C, H, W]` or `[S, H, W, C]`, become S times C channels; `[H, W]` is one channel.

    Args:
        shape: of one image.
        initialization: `"default"` is PyTorch's, `"orthogonal"` has gain sqrt(2); or `"xavier"`.
        scale: what the numbers are divided by.

    Raises:
        ValueError: an image of fewer than 36 pixels a side, too small for the filters.
    """

    least = 36
    """Pixels of height and of width."""
    # on CPUs a gradient takes two thirds of the time with it, and a forward pass alone a tenth longer
    channels_last = frozenset({"cpu"})
    """Types of devices on which gradients are computed with channels last in memory."""
    in_keys: list[NestedKey]

    def __init__(self, shape: Sequence[int], initialization: Initialization = "default", scale: float = 255.0) -> None:
        layout = ImageLayout.of(shape)
        if layout is None or not self.takes(shape):
            raise ValueError(
                f"an image has shape {list(shape)}; expected [channels, height, width] or [height, width, channels], "
                f"where height and width are {self.least} or more"
            )
        _check_name("initialization", initialization, get_args(Initialization))
        _, channels, height, width = layout
        layers: list[nn.Module] = []
        for filters, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            layers += [initialize(nn.Conv2d(channels, filters, size, stride), initialization), nn.ReLU()]
            channels, height, width = filters, (height - size) // stride + 1, (width - size) // stride + 1
        super().__init__(*layers)
        self.features = channels * height * width
        self.shape, self.channels, self.scale, self._order = tuple(shape), layout.channels, scale, layout.order

    @classmethod
    def takes(cls, shape: Sequence[int]) -> bool:
        """Whether images of this shape are large enough."""
        layout = ImageLayout.of(shape)
        return layout is not None and layout.channels > 0 and min(layout.height, layout.width) >= cls.least

    def forward(self, observation: Tensor) -> Tensor:
        own = len(self.shape)
        batch, image = observation.shape[:-own], observation.shape[-own:]
        last = torch.is_grad_enabled() and observation.device.type in self.channels_last
        layout = torch.channels_last if last else torch.contiguous_format
        images = observation.reshape(-1, *image)
        if self._order != (0, 1, 2):
            images = images.permute(0, *[1 + place for place in self._order])
            images = images.reshape(images.shape[0], self.channels, *images.shape[-2:])
        # in place on a copy: allocating a second time takes longer than dividing
        scaled = images.to(torch.get_default_dtype(), copy=True, memory_format=layout).div_(self.scale)
        return super().forward(scaled).reshape(*batch, self.features)


class MLP(nn.Sequential):
    """A multilayer perceptron: `[*B, inputs]` to `[*B, outputs]`.

    Args:
        inputs: number of input features.
        outputs: number of output features; `None` ends with the last hidden activation, as a trunk does.
        hidden: sizes of the hidden layers.
        activation: `"relu"`, `"tanh"` or `"silu"`.
        initialization: `"default"` is PyTorch's, `"orthogonal"` has gain sqrt(2) on hidden layers; or `"xavier"`.
        layer_norm: normalise each hidden layer before its activation (Ba et al. 2016), which keeps Q-learning from
            diverging (Gallici et al. 2024).
        gain: of an orthogonal output layer; 0.01 for policies and 1 for values is usual (Andrychowicz et al. 2021).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int | None,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: Activation = "relu",
        initialization: Initialization = "default",
        layer_norm: bool = False,
        gain: float = 1.0,
    ) -> None:
        _check_name("activation", activation, get_args(Activation))
        _check_name("initialization", initialization, get_args(Initialization))
        layers: list[nn.Module] = []
        for size in hidden:
            layers.append(initialize(nn.Linear(inputs, size), initialization))
            if layer_norm:
                layers.append(nn.LayerNorm(size))
            layers.append(_ACTIVATIONS[activation]())
            inputs = size
        if outputs is not None:
            layers.append(initialize(nn.Linear(inputs, outputs), initialization, gain))
        super().__init__(*layers)
        self.features = inputs if outputs is None else outputs


class Network(nn.Sequential):
    """An `nn.Sequential` whose first layer may take several entries, as `Network(encoder(spec), MLP(...))`.

    Actors and critics read the entries `in_keys` and call the network with their tensors, in this order.

    Args:
        layers: one after the other.
        in_keys: by default those of the first layer, or `["observation"]` if it has none.
    """

    def __init__(self, *layers: nn.Module, in_keys: Sequence[NestedKey] | None = None) -> None:
        super().__init__(*layers)
        self.in_keys = keys_read(next(iter(self), None)) if in_keys is None else list(in_keys)

    def forward(self, *entries: Tensor) -> Tensor:
        for layer in self:
            entries = (layer(*entries),)
        return entries[0]


class ComputedOnce(nn.Module):
    """A module that several losses' networks begin with; within `computed_once` it runs once for all of them."""

    _last: tuple[tuple[Tensor, ...], Any] | None = None
    _keeps = False

    def once(self, entries: tuple[Tensor, ...], compute: Callable[..., Any]) -> Any:
        """`compute(*entries)`, or what it was for the same tensors."""
        if self._last is not None:
            before, output = self._last
            # a memory also runs without its states
            if len(before) == len(entries) and all(map(operator.is_, before, entries)):
                return output
        output = compute(*entries)
        if self._keeps:
            self._last = (entries, output)
        return output


class Shared(Network, ComputedOnce):
    """First layers of several networks; within `computed_once` they run once for all of them."""

    def forward(self, *entries: Tensor) -> Tensor:
        features: Tensor = self.once(entries, super().forward)
        return features


@contextlib.contextmanager
def computed_once(module: nn.Module) -> Iterator[None]:
    """Within, each `ComputedOnce` in the module, such as `Shared` layers, runs once for the same tensors."""
    found = [each for each in module.modules() if isinstance(each, ComputedOnce)]
    for each in found:
        each._keeps = True
    try:
        yield
    finally:
        for each in found:
            each._keeps, each._last = False, None


class DuelingHead(nn.Module):
    """Dueling values, Wang et al. 2016, equation 9: `Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)`.

    Features `[*B, inputs]` to `[*B, actions]`; or, with several `quantiles`, to `[*B, actions * quantiles]`, those of
    each action side by side, as a `QuantileActor` takes them. The equation then holds for each of them.
    """

    def __init__(
        self, inputs: int, actions: int, initialization: Initialization = "default", quantiles: int = 1
    ) -> None:
        super().__init__()
        self.value = initialize(nn.Linear(inputs, quantiles), initialization, 1.0)
        self.advantage = initialize(nn.Linear(inputs, actions * quantiles), initialization, 1.0)
        self.quantiles = quantiles

    def forward(self, features: Tensor) -> Tensor:
        value, advantage = self.value(features), self.advantage(features)
        if self.quantiles == 1:
            return value + advantage - advantage.mean(-1, keepdim=True)
        each = advantage.unflatten(-1, (-1, self.quantiles))
        return (value.unsqueeze(-2) + each - each.mean(-2, keepdim=True)).flatten(-2)
