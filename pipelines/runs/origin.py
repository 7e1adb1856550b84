"""The origin of a run: the weights it began with, the program that trained it, and its length before it was prolonged.

Runs that differ in their origin are not the same, and `rlpipe table` gives them separate rows.
"""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rlpipe.pipelines.checkpoints.names import MANIFEST
from rlpipe.user_files import content, digest

_FALLING = ("linear", "cosine")
"""Learning rate schedules that depend on the run's length."""
_PARTS = 2
"""Colons of a schedule without a number of frames."""
_WHOLE = re.compile(r"(?<![\d.])(?<!e[+-])(?<!\de)\d+(?![\d.]|e[\d+-])")
"""A whole number that is not part of another number."""


@dataclass(frozen=True)
class Origin:
    """What `config.json` holds besides the config; nothing in a folder of an older version.

    Args:
        start_from: the run or checkpoint whose weights it began with, as the user named it.
        start: digest of that checkpoint.
        take: the parts taken of it; empty for all.
        prolonged: pairs of the total frames before, and the frames trained when it was given more.
        program: digest of the source of a user's algorithm, or of a custom run's program.
        arguments: of that program.
        built: numbers and words found in a custom run's optimisers, networks and collector.
        seed: of the run; may be part of the arguments.
        defaults: of the Config of a user's algorithm.
    """

    start_from: str | None = None
    start: str | None = None
    take: tuple[str, ...] = ()
    prolonged: tuple[tuple[int, int], ...] = ()
    program: str | None = None
    arguments: tuple[str, ...] = ()
    built: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    defaults: Mapping[str, Any] | None = None

    def is_like(self, other: Origin) -> bool:
        """Whether two runs of one config, except for the seed, have the same origin.

        Whole numbers among the arguments may be seeds of any kind, and are ignored.
        """
        mine, theirs = (
            (
                each.start or (each.start_from and os.path.normpath(each.start_from)),
                (each.take, each.prolonged, each.built, each.program),
                [_WHOLE.sub("N", argument) for argument in each.arguments],
            )
            for each in (self, other)
        )
        return mine == theirs

    def has_arguments_of(self, other: Origin) -> bool:
        """Whether the arguments of both programs are the same except for the runs' seeds."""
        mine, theirs = (
            [re.sub(rf"(?<!\d){each.seed}(?!\d)", "SEED", argument) for argument in each.arguments]
            for each in (self, other)
        )
        pairs = zip(self.arguments, other.arguments, mine, theirs, strict=False)
        return len(mine) == len(theirs) and all(one == two or a == b for one, two, a, b in pairs)

    def words(self) -> list[str]:
        """The words for a label."""
        said = [f"--start-from {self.start_from}"] if self.start_from else []
        said += [f"--take {' '.join(self.take)}"] if self.take else []
        for planned, frames in self.prolonged:
            said.append(f"(prolonged from {planned}{f' at frame {frames}' if frames < planned else ''})")
        return said

    def differences(self, others: Sequence[Origin]) -> str:
        """How it differs from others with the same label."""
        built = {name: [each.built.get(name) for each in others] for each in others for name in each.built}
        said = [
            f"{name} {self.built.get(name)}" for name, values in built.items() if any(v != values[0] for v in values)
        ]
        said += [
            f"{what} {(getattr(self, what) or 'unknown')[:7]}"
            for what in ("start", "program")
            if len({getattr(each, what) for each in others}) > 1
        ]
        return ", ".join(said[:4]) or " ".join(self.arguments) or "other arguments"


def read_origin(described: Mapping[str, Any], seed: int) -> Origin:
    """The origin in a run's `config.json`.

    Raises:
        One of `DAMAGE`: rlpipe did not write it.
    """
    program, config = described.get("program") or described.get("source") or {}, described["config"]
    # a learning rate that does not depend on the run's length is the same in a longer run
    is_own = bool(described.get("source")) or described.get("program") is not None
    depends = config.get("lr_schedule") in _FALLING or is_own or _has_endless(config)
    prolonged = [(int(each["total_frames"]), int(each["frames"])) for each in described.get("prolonged") or ()]
    start_from, start = described.get("start_from"), described.get("start_digest")
    return Origin(
        start_from=None if start_from is None else str(start_from),
        start=None if start is None else str(start),
        take=tuple(map(str, described.get("take") or ())),
        prolonged=tuple(prolonged) if depends else (),
        program=None if not program.get("digest") else str(program["digest"]),
        arguments=tuple(map(str, program.get("arguments") or ())),
        built=dict(described.get("built") or {}),
        seed=seed,
        defaults=(described.get("source") or {}).get("defaults"),
    )


def _has_endless(config: Mapping[str, Any]) -> bool:
    """Whether a number follows a schedule over the whole run."""
    entries = config.get("schedule") or ()
    return any(str(each).count(":") == _PARTS for each in entries)


def continued(before: Mapping[str, Any], now: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """The entries of `config.json` of a run that is resumed from a checkpoint of so many frames.

    `before` is its content until now, and `now` that of a new run.
    """
    if not frames:
        # it starts again
        return {}
    earlier = [each for each in before.get("prolonged") or () if each["frames"] < frames]
    later = [each for each in before.get("prolonged") or () if each["frames"] >= frames]
    # what was planned after this checkpoint had no effect on it
    planned = later[0]["total_frames"] if later else before["config"].get("total_frames")
    if planned is not None and planned != now["config"].get("total_frames"):
        earlier.append({"total_frames": planned, "frames": frames})
    kept = {name: before[name] for name in ("start_digest", "take", "built") if name in before}
    return {
        **kept,
        "prolonged": earlier,
        "program": _mixed(before.get("program"), now.get("program")),
        "source": _mixed(before.get("source"), now.get("source"), moved=True),
    }


def _mixed(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, moved: bool = False) -> Any:
    """A program or source that a resumed run has had, with a digest of both if it changed; where it is now if moved."""
    if not before or not now:
        return before or now
    kept = now if moved else before
    if before["digest"] == now["digest"]:
        return dict(kept)
    return {**kept, "digest": digest([str(each["digest"]).encode() for each in (before, now)])}


def describe_program(folder: Path) -> dict[str, Any]:
    """The program that this process runs: a digest of its source, and its arguments.

    Its source is the main script, and what was imported from the script's folder and below. In a notebook, or under
    another program such as pytest, it has none. The run's folder, as an argument, makes no difference.
    """
    main = _source_of(sys.modules.get("__main__"))
    if main is None:
        return {"digest": None, "arguments": []}
    loaded = {_source_of(module, main.parent) for module in list(sys.modules.values())}
    sources = sorted(each for each in loaded if each is not None)
    contents = [part for each in sources for part in (str(each.relative_to(main.parent)).encode(), content(each))]
    arguments = [re.sub(rf"(^|=){re.escape(str(folder))}$", r"\1RUN", each) for each in sys.argv[1:]]
    return {"digest": digest(contents), "arguments": arguments}


def find_built(parts: Mapping[str, Any], collector: Any) -> dict[str, Any]:
    """Numbers and words in a pipeline's state (optimisers, networks, losses) and collector, such as `optimizer.lr`."""
    found = {"collector.frames_per_batch": getattr(collector, "frames_per_batch", None)}
    for name, part in parts.items():
        if hasattr(part, "param_groups"):
            for index, group in enumerate(part.param_groups):
                found |= {f"{name}.{f'{index}.' if index else ''}{key}": value for key, value in group.items()}
        elif hasattr(part, "named_modules"):
            for path, module in part.named_modules():
                place = f"{name}.{path}" if path else name
                found |= {f"{place}.{key}": value for key, value in vars(module).items() if key[0] != "_"}
    return {key: value for key, value in found.items() if _is_setting(key.rpartition(".")[2], value)}


def digest_of_checkpoint(path: Path) -> str:
    """Digest of a checkpoint: of its manifest, which holds those of all its files."""
    return digest([(path / MANIFEST).read_bytes()])


def _is_setting(name: str, value: Any) -> bool:
    if name == "training" or "seed" in name or type(value) not in (bool, int, float, str):
        return False
    return len(value) <= 100 if isinstance(value, str) else json.dumps(value) not in ("NaN", "Infinity", "-Infinity")


def _source_of(module: Any, below: Path | None = None) -> Path | None:
    """The file of a module of the user's, in the folder `below` if that is given."""
    named = vars(module) if isinstance(module, ModuleType) else {}
    file = named.get("__file__")
    if not isinstance(file, str) or not file.endswith(".py") or str(named.get("__name__")).split(".")[0] == "rlpipe":
        return None
    # most of the thousands of modules end here
    if below is not None and not os.path.abspath(file).startswith(f"{below}{os.sep}"):
        return None
    path = Path(file).absolute()
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return None if any(map(path.is_relative_to, installed)) or not path.is_file() else path
