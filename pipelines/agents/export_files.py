"""The files that an agent is exported to. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal, get_args

from rlpipe.errors import ConfigError, exists_already, shown

Format = Literal["safetensors", "onnx", "torch"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def format_of(out: Path | None, named: Any) -> Format:
    """The format for a new file: the one that is named, or else the one of its suffix.

    Raises:
        ConfigError: there is no such format, or it is not that of the suffix.
    """
    if named is not None and named not in FORMATS:
        raise ConfigError(f"format is {shown(named)}; allowed are {', '.join(SUFFIXES)}")
    suffix = "" if out is None else out.suffix.lower()
    own = next((kind for kind, each in SUFFIXES.items() if each == suffix), None)
    if named and own and named != own:
        raise ConfigError(
            f"out is {out}, a name for format {own}, not {named}; leave out --format, or end the name in "
            f"{SUFFIXES[named]}"
        )
    return named or own or "safetensors"


def check_new(out: Path, kind: Format) -> None:
    """Refuse a file that cannot be made, before anything is computed.

    Raises:
        ConfigError: it exists, its folder does not, or a package that its format needs is missing.
    """
    if os.path.lexists(out):
        raise exists_already("out", out)
    if not out.parent.is_dir():
        raise ConfigError(f"out {out} cannot be made: there is no folder {out.parent}")
    needed = ("onnx", "onnxruntime", "onnxscript") if kind == "onnx" else ()
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise ConfigError('format onnx needs an extra: pip install "rlpipe[onnx]"')
