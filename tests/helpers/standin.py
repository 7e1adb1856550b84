"""A stand-in for a GPU where there is none: a device apart, whose numbers are computed on the CPU.

Its tensors say that they are on `DEVICE` and hold numbers of their own. Within `Standin`, operations on them and on the
host's together are refused as CUDA refuses them, generators must be of the tensors' device, and whatever passes between
the two, or makes the host wait for the device, is counted. So a whole run can be compared with one on the CPU, bit for
bit. (PyTorch's own fake tensors of 'cuda' have no numbers, and without CUDA abort the process in a backward pass.)
"""

import contextlib
import sys
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torchrl.collectors import Collector

from rlpipe.modules import CNN
from rlpipe.pipelines.build import collector, pipeline

# the only device beside the CPU for which every PyTorch has autograd
DEVICE = torch.device("meta")
_HOST = torch.device("cpu")
_GENERATOR = torch.Generator
_ALL_OF_THEM = "Expected all tensors to be on the same device"
_aten = torch.ops.aten
# operations whose result the host waits for
_WAITS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default, _aten.equal.default}
_WAITS |= {_aten.is_nonzero.default, _aten._unique2.default, _aten.unique_dim.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Away(torch.Tensor):
    """A tensor on the stand-in."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} of the stand-in was called outside of it")

    @property
    def is_meta(self):
        # it has numbers
        return False

    def tolist(self):
        # PyTorch's own is for no subclass
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        return Away(self.held.clone()).requires_grad_(self.requires_grad)


class Generator(_GENERATOR):
    """A generator of the CPU or of the stand-in, which draws what one of the CPU does.

    Within PyTorch it is known by its seed alone, of which each stream has its own.
    """

    places: dict[int, torch.device] = {}

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made._place = torch.device(device)
        return made

    def __init__(self, device="cpu"):
        super().__init__()

    @property
    def device(self):
        return self._place

    def manual_seed(self, seed):
        self.places[seed] = self._place
        super().manual_seed(seed)
        return self


class Standin(TorchDispatchMode):
    """Within, the stand-in is there.

    Attributes:
        up: copies to it, by their number of elements.
        down: copies from it.
        waits: other operations for whose result the host waits.
    """

    def __init__(self):
        super().__init__()
        self.up, self.down, self.waits = [], [], Counter()

    def counted(self):
        """Copies up, copies down and other waits since it was last asked."""
        count = len(self.up), len(self.down), sum(self.waits.values())
        self.up, self.down, self.waits = [], [], Counter()
        return count

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if torch.is_inference_mode_enabled():
            # where operations that are made of others come as a whole
            with self:
                results = function.decompose(*args, **(kwargs or {}))
            if results is not NotImplemented:
                return results
        flat, shape = tree_flatten((args, dict(kwargs or {})))
        tensors = [each for each in flat if isinstance(each, torch.Tensor)]
        away = any(isinstance(each, Away) for each in tensors)
        args, kwargs = tree_unflatten(flat, shape)
        target = kwargs.get("device")
        target = torch.device(target) if target is not None else (DEVICE if away else _HOST)
        if function is _aten._to_copy.default:
            self._note_copy(args[0], target)
        elif function is _aten.copy_.default:
            self._note_copy(args[1], args[0].device)
        elif away or target == DEVICE:
            self._check(function, args, tensors, target)
        for generator in (each for each in flat if isinstance(each, _GENERATOR)):
            place = Generator.places.get(generator.initial_seed(), _HOST)
            if place != target:
                raise RuntimeError(f"Expected a '{target}' device type for generator but found '{place}'")
        return self._compute(function, flat, shape, target)

    def _note_copy(self, source, target):
        if isinstance(source, Away) and target != DEVICE:
            self.down.append(source.numel())
        if not isinstance(source, Away) and target == DEVICE:
            self.up.append(source.numel())

    def _check(self, function, args, tensors, target):
        if function in _INDEXING:
            indices = [each for each in args[1] if each is not None]
            masks = [each for each in indices if each.dtype in (torch.bool, torch.uint8)]
            self.waits[str(function)] += len(masks)
            self.up += [each.numel() for each in indices if not isinstance(each, Away)]
            tensors = [args[0], *(each for each in args[2:] if isinstance(each, torch.Tensor))]
        if function in _WAITS:
            self.waits[str(function)] += 1
        name = function.overloadpacket.__name__
        if name.startswith("new_") or name.endswith("_like"):
            return
        for each in tensors:
            # a number on the host goes along with a kernel
            if not isinstance(each, Away) and (each.ndim or target != DEVICE):
                raise RuntimeError(f"{_ALL_OF_THEM}, {function} got one of shape {list(each.shape)} on the host")

    def _compute(self, function, flat, shape, target):
        wrappers = {id(each.held): each for each in flat if isinstance(each, Away)}
        args, kwargs = tree_unflatten([each.held if isinstance(each, Away) else each for each in flat], shape)
        if "device" in kwargs:
            kwargs["device"] = _HOST
        if function is _aten._to_copy.default:
            kwargs["dtype"] = kwargs.get("dtype") or args[0].dtype
        results = function(*args, **kwargs)
        # a scalar, and what is written in place by way of the host's tensor, is nobody's
        there = target == DEVICE and function is not _aten._local_scalar_dense.default
        if function is _aten.copy_.default:
            there = isinstance(flat[0], Away)
        # a view is an inference tensor only if that of which it is one is
        base = flat[0] if flat else None
        plain = function.is_view and isinstance(base, torch.Tensor) and not base.is_inference()
        with torch.inference_mode(False) if plain else contextlib.nullcontext():
            return tree_map(lambda each: self._wrap(each, wrappers) if there else each, results)

    @staticmethod
    def _wrap(result, wrappers):
        if not isinstance(result, torch.Tensor):
            return result
        return wrappers[id(result)] if id(result) in wrappers else Away(result)


@contextlib.contextmanager
def standing_in(monkeypatch):
    """Enter a `Standin`, and have everything that is built take it for 'cuda'."""
    monkeypatch.setattr(torch, "Generator", Generator)
    optim = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optim, "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type])
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    # convolutions add up in another order otherwise
    monkeypatch.setattr(CNN, "channels_last", {*CNN.channels_last, DEVICE.type})
    # who knows of no device of this name
    monkeypatch.setattr(Collector, "_get_sync_fn", lambda self, device: None)
    for module in (collector, pipeline):
        monkeypatch.setattr(module, "check_device", lambda config: DEVICE if config.device == "cuda" else _HOST)
    with Standin() as standin:
        yield standin
