"""Reading a run folder. Imports nothing heavy, so that a mistyped path is refused at once."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.checkpoints.durable_files import DAMAGE, read_plain, replace_synced
from rlpipe.pipelines.checkpoints.names import BEST_CHECKPOINT, FOLDER, checkpoints, frames_of
from rlpipe.pipelines.runs import layout
from rlpipe.user_files import check_trusted_files, has_run, load_trusted
from rlpipe.user_modules import is_free, module_of

_OLD_LOGS = "wandb/*/logs/*.log"
"""Links that W&B makes; a resumed run writes into another folder."""
_LARGEST_BEST = 10_000


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far, and the checkpoint of what acted in it.

    Args:
        frames: trained until then.
        score: its mean return.
        path: of the checkpoint, which holds what acting and `--start-from` need.
    """

    frames: int
    score: float
    path: Path


def read_run(path: Path, trusted: Collection[str] | None = ()) -> tuple[dict[str, Any], Path]:
    """Read what a run is, and find the checkpoint that a path names.

    Args:
        path: a run folder, for its newest checkpoint; `RUN@best`, `RUN@last` or `RUN@<frames>`; or a checkpoint in one.
        trusted: modules and files that its environment and its algorithm may come from; they are imported. `None` if
            neither is loaded, so that no code of theirs runs.

    Returns:
        The content of `config.json`, and the checkpoint's path.

    Raises:
        CheckpointError: the path is none of these, or the run has no such checkpoint.
    """
    path, which = split_choice(path)
    try:
        path = path.resolve()
    except RuntimeError as error:  # of Python up to 3.12
        raise CheckpointError(f"{path} is no run, but a link that leads back to itself") from error
    folder = path if (path / layout.CONFIG).is_file() else path.parent.parent
    described = read_description(folder, trusted, path)
    if path == folder:
        return described, _choose(folder, which)
    if which:
        raise CheckpointError(f"{path} is a checkpoint; @{which} goes after the run folder that it is in")
    return described, path


def split_choice(path: Path) -> tuple[Path, str]:
    """Split `RUN@best` into `RUN` and `best`; a path that exists, or has no `@` in its last part, stays whole."""
    run, at, which = str(path).rpartition("@")
    if not (at and which) or "/" in which or os.path.lexists(path):
        return path, ""
    return Path(run), which


def _choose(folder: Path, which: str) -> Path:
    """The checkpoint of a run folder that `which` names; the newest if it is empty."""
    best, found = read_best(folder), checkpoints(folder)
    if which == "best":
        if best is None:
            raise CheckpointError(
                f"run {folder} has no best checkpoint: one is kept at each evaluation that is better than all before "
                "(--eval-every), and this run has none yet, or is of an older version"
            )
        return best.path
    if not found:
        raise CheckpointError(f"run {folder} has no checkpoint yet{' but @best' if best else ''}")
    if which in ("", "last"):
        return found[0]
    named = {frames_of(path): path for path in [*([best.path] if best else []), *reversed(found)]}
    if not re.fullmatch("[0-9]{1,18}", which) or int(which) not in named:
        raise CheckpointError(
            f"run {folder} has no checkpoint {which!r}; after @ goes {'best, ' if best else ''}last, or one of the "
            f"frames {', '.join(map(str, sorted(named)))}"
        )
    return named[int(which)]


def read_description(folder: Path, trusted: Collection[str] | None = (), asked: Path | None = None) -> dict[str, Any]:
    """The content of a run folder's `config.json`.

    Args:
        folder: of the run.
        trusted: see `read_run`.
        asked: the path that the user gave, for messages.

    Raises:
        ConfigError: a trusted module cannot be imported.
        CheckpointError: it is no run folder, or its environment (`module:Env-v0`) or its algorithm is from a module or
            a file that is neither trusted nor imported already.
    """
    file, path = folder / layout.CONFIG, asked or folder
    if not file.is_file():
        raise CheckpointError(f"{path} {_why_none(path)}")
    try:
        described = json.loads(read_plain(file, layout.LARGEST_JSON))
        known = isinstance(described["config"], dict) and all(
            isinstance(described[key], str) and described[key].isprintable() for key in ("recipe", "algorithm")
        )
    except DAMAGE:
        known = False
    if not known:
        raise CheckpointError(f"{path} is no run: {file} is not one that rlpipe wrote")
    return dict(described) if trusted is None else trusted_description(described, trusted, f"run {path}")


def _why_none(path: Path) -> str:
    """Why a path is no run, and the newest run in it."""
    if not os.path.lexists(path):
        return "is no run: there is no such folder"
    described = [each for depth in ("*", "*/*", "*/*/*") for each in path.glob(f"{depth}/{layout.CONFIG}")]
    if described:
        return f"is no run: the newest of the runs in it is {max(described, key=os.path.getmtime).parent}"
    return "is no run: it has no config.json, and is no checkpoint in a run folder"


def trusted_description(described: Mapping[str, Any], trusted: Collection[str], what: str) -> dict[str, Any]:
    """The content of a `config.json`, after what it may be from is imported.

    Args:
        described: `config`, and `source` of a user's algorithm.
        trusted: see `read_run`.
        what: the run or the file, for messages.

    Raises:
        ConfigError: a trusted module cannot be imported.
        CheckpointError: its environment or its algorithm is from a module or file that is neither trusted nor imported.
    """
    check_trusted_files(trusted)
    source = _trusted_source(described, trusted, what)
    # the environment may be in the same file
    _check_trusted(described["config"], [*trusted, *([source["module"]] if source else [])], what)
    load_trusted(trusted)
    return {**described, "source": source}


def _trusted_source(described: Mapping[str, Any], trusted: Collection[str], what: str) -> dict[str, Any] | None:
    """What `config.json` says of a user's algorithm, with the file where the user has named it now.

    Raises:
        CheckpointError: it is not trusted, or not described as rlpipe does it.
    """
    found = described.get("source")
    if not found:
        return None
    texts = [found.get(key) for key in ("module", "name", "digest")] if isinstance(found, dict) else [None]
    file = found.get("file", 0) if isinstance(found, dict) else None
    known = all(isinstance(each, str) and each.isprintable() for each in (*texts, "" if file is None else file))
    # or else trust in the file would be trust in any module
    if not known or (file is not None and Path(file).stem != found["module"]):
        raise CheckpointError(f"{what} is no run: its config.json is not one that rlpipe wrote")
    if found["file"] is None:
        if found["module"] not in trusted and not has_run(found["module"]):
            raise _untrusted(what, "the module", found["module"])
        return dict(found)
    file = Path(found["file"])
    named = [Path(each) for each in trusted if each.endswith(".py") and Path(each).name == file.name]
    if named:
        return {**found, "file": str(named[-1].absolute())}
    if not has_run(file):
        raise _untrusted(what, "the file", str(file), "" if file.is_file() else ", which is not there any more")
    return dict(found)


def _untrusted(what: str, kind: str, place: str, gone: str = "") -> CheckpointError:
    where = "FILE, where it is now" if gone else shlex.quote(place)
    return CheckpointError(
        f"{what} is of an algorithm of your own, and loading it runs the code of {kind} {place!r}{gone}; "
        f"if you trust that, add --trust-module {where}"
    )


def _check_trusted(config: Mapping[str, Any], trusted: Collection[str], what: str) -> None:
    """Refuse environments and wrappers of modules that nobody trusts: making them runs their code."""
    ids = [each for each in map(config.get, ("env_id", "eval_env_id")) if each is not None]
    wrappers = config.get("wrapper") or []
    for words, names in (("one of", ids), ("one with the wrapper", wrappers if isinstance(wrappers, list) else [])):
        for name in map(str, names):
            module = module_of(name)
            if module and module not in trusted and not is_free(name, sys.modules):
                raise CheckpointError(
                    f"{what} is {words} {name!r}, and loading it runs the code of the module {module!r}; "
                    f"if you trust that, add --trust-module {module}"
                )


def read_best(folder: Path) -> Best | None:
    """The best evaluation of a run; `None` if it has none, or `best.json` is damaged."""
    try:
        marked = json.loads(read_plain(folder / layout.BEST, _LARGEST_BEST))
        frames, score, name = marked["frames"], marked["mean"], marked["checkpoint"]
        known = (
            type(frames) is int
            and type(score) in (int, float)
            and math.isfinite(score)
            and BEST_CHECKPOINT.fullmatch(name)
        )
    except DAMAGE:
        return None
    path = folder / FOLDER / str(name)
    return Best(frames, float(score), path) if known and path.is_dir() else None


def mark_best(folder: Path, best: Best) -> None:
    """Mark a checkpoint as the one of the best evaluation, in one step."""
    marked = {"frames": best.frames, "mean": best.score, "checkpoint": best.path.name}
    replace_synced(folder / layout.BEST, json.dumps(marked) + "\n")


def free_name(path: Path) -> Path:
    """The path, with a number after it if it exists."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def check_plain(folder: Path) -> None:
    """Refuse a run folder with links, pipes or devices in it, because a resumed run writes to its files.

    Raises:
        CheckpointError: names the first.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and path.match(_OLD_LOGS):
            continue
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a symbolic link, and a resumed run would write to its target; put a copy there"
            )
        if not (path.is_file() or path.is_dir()):
            raise CheckpointError(f"{path} is neither a file nor a folder, and no part of a run")
