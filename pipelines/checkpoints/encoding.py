"""State dicts as JSON and tensors, which cannot hold code.

Every JSON object has one key, its type: `dict` (pairs of key and value), `tuple`, `tensor` or `array` (the name of a
tensor in the file), `device`. Numbers, text, lists, booleans and null are themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

Tensors = dict[str, Tensor]
_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8}
_KINDS = {*_FLOATS, *_INTEGERS, torch.bool}


def encode(value: Any, tensors: Tensors, where: str = "") -> Any:
    """The JSON form of a state; its tensors and arrays are put into `tensors`, named after their place in it.

    Args:
        value: dicts (keys: text or whole numbers), lists, tuples, tensors, NumPy arrays, TensorDicts (read back as
            dicts), and what JSON knows.
        tensors: filled, on the CPU; they may share memory with the state.
        where: the place of `value`, for names and errors.

    Raises:
        TypeError: anything else; names its place.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        return _encode_tensor(value, tensors, where)
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, TensorDictBase):
        value = value.to_dict()
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, (str, int)) or isinstance(key, bool)]
        if wrong:
            raise TypeError(f"{where or 'the state'} has the key {wrong[0]!r}; expected text or a whole number")
        return {"dict": [[key, encode(each, tensors, _under(where, key))] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [encode(each, tensors, _under(where, index)) for index, each in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise TypeError(f"{where or 'the state'} is a {type(value).__name__}, which a checkpoint cannot hold")


def decode(value: Any, tensors: Tensors) -> Any:
    """The state that was given to `encode`.

    Raises:
        ValueError: the JSON is of another form.
        KeyError: a tensor is missing.
    """
    if not isinstance(value, dict):
        return [decode(each, tensors) for each in value] if isinstance(value, list) else value
    if len(value) != 1:
        raise ValueError(f"an object of {len(value)} entries, expected one")
    kind, content = next(iter(value.items()))
    if kind in ("tensor", "array"):
        return tensors[content] if kind == "tensor" else tensors[content].numpy()
    if kind == "device":
        return torch.device(content)
    if kind == "tuple":
        return tuple(decode(each, tensors) for each in content)
    if kind == "dict":
        return {_key(key): decode(each, tensors) for key, each in content}
    raise ValueError(f"an object of the kind {kind!r}")


def _encode_tensor(value: Tensor | np.ndarray, tensors: Tensors, where: str) -> dict[str, str]:
    name, number = where, 1
    # the file format reserves this name
    while name in tensors or name == "__metadata__":
        number += 1
        name = f"{where}#{number}"
    if isinstance(value, Tensor) and (value.dtype not in _KINDS or value.layout is not torch.strided):
        raise TypeError(f"{where or 'the state'} is a tensor of {value.dtype}, which a checkpoint cannot hold")
    if isinstance(value, np.ndarray):
        # not `ascontiguousarray`, which turns a single number into a vector; PyTorch warns of read-only arrays
        array = np.asarray(value, order="C")
        tensors[name] = torch.from_numpy(array if array.flags.writeable else array.copy())
        return {"array": name}
    tensors[name] = value.detach().cpu().contiguous()
    return {"tensor": name}


def _under(where: str, key: object) -> str:
    return f"{where}/{key}" if where else str(key)


def _key(key: Any) -> str | int:
    if not isinstance(key, (str, int)):
        raise ValueError(f"the key {key!r}")
    return key
