"""Checkpoints: a folder written beside the others and moved into place in one step, checked before it is read.

The format is TorchRL's `Checkpoint`: a manifest, memory-mapped tensors and JSON, no pickle. `digests.json` beside the
manifest holds a digest of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torchrl.checkpoint import Checkpoint, StateDictCheckpointAdapter
from torchrl.checkpoint import CheckpointError as TorchRLCheckpointError

from rlpipe.errors import CheckpointError

_DIGESTS = "digests.json"
_MANIFEST = "manifest.json"


def save_checkpoint(path: Path, state: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint of every object in `state`, each with `state_dict` and `load_state_dict`.

    Args:
        path: the folder to make; it must not exist.
        state: objects by name.
        metadata: JSON values for the manifest.

    Raises:
        CheckpointError: `path` exists already.
    """
    if path.exists():
        raise CheckpointError(f"checkpoint {path} exists already; nothing was overwritten")
    stage = path.with_name(f".{path.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    _checkpoint(state).save(stage, metadata=metadata)
    (stage / _DIGESTS).write_text(json.dumps({str(file): _digest(stage / file) for file in _files(stage)}, indent=1))
    os.replace(stage, path)


def load_checkpoint(path: Path, state: Mapping[str, Any], components: Collection[str] | None = None) -> None:
    """Verify a checkpoint, then load it into the objects of `state`.

    Args:
        path: a folder that `save_checkpoint` wrote.
        state: objects by name.
        components: the names to load; all of `state` by default.

    Raises:
        CheckpointError: no checkpoint, a file that is missing, added or changed, or a component that does not fit.
    """
    names = sorted(state if components is None else components)
    manifest = _verify(path)
    for name in names:
        if name not in manifest["components"]:
            raise CheckpointError(
                f"checkpoint {path} has no component {name!r}; it has {sorted(manifest['components'])}"
            )
    for name in names:
        try:
            _checkpoint({name: state[name]}).load(path, map_location="cpu")
        except (TorchRLCheckpointError, KeyError, ValueError, TypeError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise CheckpointError(f"checkpoint {path}: component {name!r} does not fit: {reason}") from error


def _verify(path: Path) -> dict[str, Any]:
    """Compare every file with its digest, and return the manifest."""
    try:
        manifest: dict[str, Any] = Checkpoint.manifest(path)
        digests = dict(json.loads((path / _DIGESTS).read_text()))
    except (OSError, ValueError, TypeError, AttributeError, TorchRLCheckpointError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of rlpipe: {_MANIFEST} or {_DIGESTS} is missing or damaged"
        ) from error
    owners = {record["path"]: name for name, record in manifest["components"].items()}
    found = {str(file) for file in _files(path)}
    for file in sorted(found | set(digests)):
        owner = next((name for folder, name in owners.items() if file.startswith(f"{folder}/")), "the manifest")
        if file not in found:
            raise CheckpointError(f"checkpoint {path}: component {owner!r} is incomplete, {file} is missing")
        if digests.get(file) != _digest(path / file):
            raise CheckpointError(f"checkpoint {path}: component {owner!r} is damaged, {file} is not what was written")
    return manifest


def _checkpoint(state: Mapping[str, Any]) -> Checkpoint:
    checkpoint = Checkpoint()
    for name, component in state.items():
        # named, because TorchRL would choose dump() for a replay buffer, which writes a pickle
        checkpoint.register(name, component, adapter=StateDictCheckpointAdapter())
    return checkpoint


def _files(folder: Path) -> list[Path]:
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.name != _DIGESTS)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
