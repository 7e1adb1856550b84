"""The versions that a run was made with."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("rlpipe", "torch", "torchrl", "tensordict", "gymnasium", "numpy")


def versions(config: object = None) -> dict[str, Any]:
    """Packages, Python, commit and machine, and the C++ compiler if the config compiles: of `versions.json`."""
    installed = {name: version_of(name) for name in _PACKAGES}
    machine = {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    compiler = {"compiler": _compiler()} if isinstance(config, Mapping) and config.get("compile") else {}
    return {
        "python": platform.python_version(),
        "packages": installed,
        "commit": _commit(),
        "machine": machine,
        **compiler,
    }


def _compiler() -> str | None:
    """The C++ compiler that PyTorch's compiler calls; `None` if there is none."""
    command = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
    try:
        found = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.split("\n")[0] if found.returncode == 0 else None


def version_of(package: str) -> str | None:
    """The version of an installed package; `None` if it is not installed.

    A nightly build is a distribution of another name (`torchrl-nightly`), and a checkout may be none; then it is the
    package's `__version__`.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        try:
            return str(importlib.import_module(package).__version__)
        except (ImportError, AttributeError):
            return None


def _commit() -> str | None:
    """The commit of the source tree that rlpipe runs from; `None` for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # an installed rlpipe may lie inside another repository
        ours = subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False
        )
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if ours.returncode == 0 else None
