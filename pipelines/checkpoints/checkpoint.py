"""Checkpoints: folders that are written under another name, moved into place in one step, and checked before loading.

`checkpoint.json` holds the metadata, the state of every component in the form of `encoding.py`, and a digest of every
other file; `<component>.safetensors` holds its tensors. Neither format can hold code. (TorchRL's own checkpoints are
not used, because its loader unpickles what is not a tensor.) The file of a part that has not changed since the last
checkpoint is linked, not written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from rlpipe.errors import CheckpointError, TrainingError
from rlpipe.pipelines.checkpoints.durable_files import durable_folder, read_plain, sync, write_synced
from rlpipe.pipelines.checkpoints.encoding import Tensors, decode, encode
from rlpipe.pipelines.checkpoints.names import MANIFEST, check_name
from rlpipe.pipelines.checkpoints.older import telling
from rlpipe.pipelines.checkpoints.state_checks import check_horizon, check_like, check_optimizer

FORMAT = 1
_LARGEST_MANIFEST = 1 << 30
_NAME = re.compile("[a-z][a-z0-9_]*")


def save_checkpoint(path: Path, state: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint of every object in `state`, each with `state_dict` and `load_state_dict`.

    It has another name until everything is on the disk, so that a folder of this name is always complete. The metadata
    are JSON values.

    Raises:
        CheckpointError: `path` exists already, a name is no plain word, or a state holds what JSON and tensors cannot.
        TrainingError: it cannot be written; nothing of it is left.
    """
    if path.exists():
        raise CheckpointError(f"checkpoint {path} exists already; nothing was overwritten")
    try:
        with durable_folder(path) as stage:
            digests = _write(stage, state, metadata)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"checkpoint {path} cannot be written: {reason}") from error
    _note_saved(path, state, digests)


def check_savable(state: Mapping[str, Any]) -> None:
    """Refuse what `save_checkpoint` would refuse, before training begins.

    Raises:
        CheckpointError: names the component.
    """
    for name, part in state.items():
        _encode_component(name, part)


def load_checkpoint(path: Path, state: Mapping[str, Any], components: Collection[str] | None = None) -> dict[str, Any]:
    """Verify a checkpoint, then load it into the objects of `state`: all, or those that `components` names.

    Every file must be there, of its size, and no other. If `components` are named, only their content is verified,
    because a replay buffer may be thousands of times as large as a policy. Returns the metadata.

    Raises:
        CheckpointError: it is no checkpoint, a file is missing, added or changed, or a component does not fit.
    """
    names = sorted(state if components is None else components)
    manifest = read_manifest(path)
    _check_files(path, manifest["files"], components)
    if missing := [name for name in names if name not in manifest["components"]]:
        raise CheckpointError(
            f"checkpoint {path} has no component {missing[0]!r}; it has {sorted(manifest['components'])}"
        )
    for name in names:
        with _fitting(path, name):
            decoded = _decoded(path, manifest, name)
            if isinstance(state[name], torch.optim.Optimizer):
                check_optimizer(state[name], decoded)
            elif isinstance(state[name], LRScheduler):
                # PyTorch accepts anything
                check_like(state[name].state_dict(), decoded)
                check_horizon(state[name], decoded)
            state[name].load_state_dict(decoded)
            _note_saved(path, {name: state[name]}, manifest["files"])
    return dict(manifest["metadata"])


def read_components(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The states of components, verified; those that the checkpoint does not have are left out.

    Raises:
        CheckpointError: it is no checkpoint, a file is missing, added or changed, or a state cannot be read.
    """
    manifest = read_manifest(path)
    found = sorted(set(names) & set(manifest["components"]))
    _check_files(path, manifest["files"], found)
    states = {}
    for name in found:
        with _fitting(path, name):
            states[name] = _decoded(path, manifest, name)
    return states


@contextlib.contextmanager
def _fitting(path: Path, name: str) -> Iterator[None]:
    """Within, a component is loaded: it may fail in any way if it is damaged, which must not look like a bug."""
    try:
        yield
    except (MemoryError, TrainingError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"checkpoint {path}: component {name!r} does not fit: {reason}") from error


def _decoded(path: Path, manifest: Mapping[str, Any], name: str) -> Any:
    """The state of a component."""
    tensors = load_file(path / _file(name)) if _file(name) in manifest["files"] else {}
    return decode(manifest["components"][name], tensors)


def read_manifest(path: Path) -> dict[str, Any]:
    """The verified content of `checkpoint.json`: `format`, `metadata`, `components` and `files`.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    if path.is_symlink() or (path / MANIFEST).is_symlink():
        raise CheckpointError(f"checkpoint {path} is, or has, a symbolic link; give the folder itself")
    try:
        text = read_plain(path / MANIFEST, _LARGEST_MANIFEST)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is no checkpoint of this version of rlpipe: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} cannot be read: {reason}") from error
    try:
        content = json.loads(text)["content"]
        # other text with the same content was not written by rlpipe
        intact = text == _sealed(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise CheckpointError(f"checkpoint {path} is damaged: {MANIFEST} is not what was written")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} is of another format than {FORMAT}, the one of this version")
    for key in ("metadata", "components", "files"):
        if not isinstance(content.get(key), dict):
            raise CheckpointError(f"checkpoint {path}: {MANIFEST} has no {key}")
    return content


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint; empty if it is damaged."""
    try:
        return dict(read_manifest(path)["metadata"])
    except CheckpointError:
        return {}


def identity(algorithm: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has in common with its checkpoints, in JSON form: all but its length, its cluster and `eval_envs`.

    Fields that only some versions have are left out where they change nothing.
    """
    free = ("total_frames", "ray_address", "eval_envs")
    plain = json.loads(json.dumps(dict(config)))
    lasting = {name: value for name, value in telling(plain).items() if name not in free}
    return {"algorithm": algorithm, "config": lasting}


def check_identity(path: Path, run: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run than that of an `identity`, or one that was renamed.

    Raises:
        CheckpointError: it is one, or damaged.
    """
    metadata = read_manifest(path)["metadata"]
    if metadata.get("run") != run:
        raise CheckpointError(f"checkpoint {path} belongs to another run: its algorithm or config differs")
    check_name(path, metadata.get("frames"))


def check_lengths(path: Path) -> None:
    """Refuse a checkpoint without the lengths of the run's journals, from which a run cannot be resumed.

    Raises:
        CheckpointError: it does not, or is damaged.
    """
    lengths = read_manifest(path)["metadata"].get("lengths")
    known = isinstance(lengths, dict) and set(lengths) == {"metrics", "evaluations"}
    if not known or any(type(length) is not int or length < 0 for length in lengths.values()):
        raise CheckpointError(f"checkpoint {path} does not know how long the run's files were")


def _write(folder: Path, state: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, str]:
    """Write all files of a checkpoint; returns the digests of those with tensors."""
    components: dict[str, Any] = {}
    files: dict[str, str] = {}
    for name, part in state.items():
        components[name], tensors = _encode_component(name, part)
        file = folder / _file(name)
        if tensors and not _link(file, part, files):
            save_file(_unshared(tensors), file)
            sync(file)
            files[file.name] = _digest(file)
    content = {"format": FORMAT, "metadata": dict(metadata), "components": components, "files": files}
    write_synced(folder / MANIFEST, _sealed(content))
    return files


def _link(file: Path, part: Any, files: dict[str, str]) -> bool:
    """Link to the file of an older checkpoint that holds this part as it is now, if there is one.

    Such a part has `saved_as()`, the path and digest of the file or `None`, and `note_saved(path, digest)`.
    """
    saved = part.saved_as() if hasattr(part, "saved_as") else None
    if saved is None:
        return False
    try:
        os.link(saved[0], file)
    except OSError:  # it was removed, or the file system has no links
        return False
    files[file.name] = saved[1]
    return True


def _note_saved(path: Path, state: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    for name, part in state.items():
        if hasattr(part, "note_saved") and _file(name) in digests:
            part.note_saved(path / _file(name), digests[_file(name)])


def _encode_component(name: str, part: Any) -> tuple[Any, Tensors]:
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"a component is called {name!r}; expected small letters, digits and underscores")
    tensors: Tensors = {}
    try:
        return encode(part.state_dict(), tensors), tensors
    except TypeError as error:
        raise CheckpointError(f"component {name!r} cannot be saved: {error}") from error


def _unshared(tensors: Tensors) -> Tensors:
    """The same tensors without shared memory, which the file format requires."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        own[name] = tensor.clone() if memory.data_ptr() in seen else tensor
        seen.add(memory.data_ptr())
    return own


def _sealed(content: Any) -> str:
    """A content with its digest, as JSON."""
    text = json.dumps(content, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f'{{"content":{text},"digest":"{digest}"}}\n'


def _check_files(path: Path, digests: Mapping[str, str], components: Collection[str] | None) -> None:
    """Compare every file with its size, and those of the components, or all, with their digests."""
    found = {entry.name: entry for entry in path.iterdir()}
    for file in sorted({*found, *digests} - {MANIFEST}):
        component = file.removesuffix(".safetensors")
        if file not in found:
            raise CheckpointError(f"checkpoint {path}: component {component!r} is incomplete, {file} is missing")
        named = file in digests and _NAME.fullmatch(component)
        whole = components is None or component in components
        try:
            intact = named and _is_intact(found[file], str(digests[file]), whole=whole)
        except OSError as error:
            raise CheckpointError(f"checkpoint {path}: {file} cannot be read: {error.strerror}") from error
        if not intact:
            raise CheckpointError(
                f"checkpoint {path}: component {component!r} is damaged, {file} is not what was written"
            )


def _file(component: str) -> str:
    return f"{component}.safetensors"


def _is_intact(file: Path, digest: str, *, whole: bool) -> bool:
    """Whether a file has this digest, or only its size; a file of another size, perhaps an endless one, is not read."""
    if not file.is_file() or file.is_symlink() or not digest.startswith(f"{file.stat().st_size}-"):
        return False
    return not whole or digest == _digest(file)


def _digest(file: Path) -> str:
    """The size in bytes, and a hash of the content."""
    with file.open("rb") as stream:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return f"{stream.tell()}-{digest.hexdigest()}"
