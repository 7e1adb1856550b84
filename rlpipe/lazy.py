"""Loading a package's names when they are first used, so that importing it is instant."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` for a package, from its `__name__` and the module of each public name."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with quick_imports():
            return getattr(importlib.import_module(homes[name]), name)

    return load


@contextlib.contextmanager
def quick_imports(*, of_a_command: bool = False) -> Iterator[None]:
    """Import PyTorch and TorchRL within, without the garbage collector: they make a million objects, all of which stay.

    Args:
        of_a_command: whether the process is rlpipe's own. Then these objects are also taken out of later collections,
            during training and at exit. A user's program has objects of its own, which `gc.freeze` would concern too.
    """
    was_on, was_there = gc.isenabled(), "torch" in sys.modules
    _without_ipywidgets()
    gc.disable()
    try:
        yield
    finally:
        if of_a_command and not was_there:
            gc.freeze()
        if was_on:
            gc.enable()


def _without_ipywidgets() -> None:
    """Say nothing in a notebook of ipywidgets, which TorchRL and Ray look for, and rlpipe does without."""
    if "IPython" not in sys.modules or "tqdm.auto" in sys.modules:
        return
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("tqdm.auto")
