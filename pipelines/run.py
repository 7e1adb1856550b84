"""The run folder: everything that a training run writes. `folder.py` reads it again."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoint import save_checkpoint
from rlpipe.pipelines.config import TrainConfig
from rlpipe.pipelines.curve import draw_curve
from rlpipe.pipelines.evaluation import Evaluation
from rlpipe.pipelines.folder import newest_checkpoint

_PACKAGES = ("rlpipe", "torch", "torchrl", "tensordict", "gymnasium", "numpy")


def default_folder(recipe: str, seed: int) -> Path:
    """`runs/<recipe>/<seed>-<time>`, with a number behind it if it is taken already."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder, number = Path("runs", *recipe.split("/"), f"{seed}-{now}"), 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{seed}-{now}-{number}")
    return folder


class Run:
    """A new run folder, open for writing.

    `config.json`, `versions.json`, `metrics.jsonl` (a line a batch, or as `log_every` says), `evaluations.jsonl` (raw
    returns and lengths), `checkpoints/`, TensorBoard events in `tensorboard/`, and at the end `curve.png`.

    Args:
        folder: to make.
        recipe: name of the recipe.
        algorithm: name of the module in `rlpipe.pipelines` that builds it.
        config: what it is built from.

    Raises:
        ConfigError: the folder exists already, or cannot be made.
    """

    def __init__(self, folder: Path, recipe: str, algorithm: str, config: TrainConfig) -> None:
        self.folder, self._window = folder, config.curve_window
        self._make_folder()
        described = {"recipe": recipe, "algorithm": algorithm, "config": dataclasses.asdict(config)}
        self._write_json("config.json", described)
        self._write_json("versions.json", versions())
        self._metrics = (folder / "metrics.jsonl").open("x")
        self._evaluations = (folder / "evaluations.jsonl").open("x")
        self._board = _tensorboard(folder)

    def log_batch(self, frames: int, scalars: Mapping[str, float], returns: list[float], lengths: list[int]) -> None:
        """Write one line of metrics: scalars, and the episodes that ended in the batch, in their order."""
        line = {"frames": frames, **scalars, "returns": returns, "lengths": lengths}
        _append(self._metrics, line)
        board = {_board_name(key): value for key, value in scalars.items()}
        if returns:
            board["train/return"] = sum(returns) / len(returns)
            board["train/length"] = sum(lengths) / len(lengths)
        self._board.log_metrics(board, step=frames)

    def log_evaluation(self, frames: int, evaluation: Evaluation, *, seconds: float, final: bool = False) -> None:
        """Write every episode of an evaluation after so many training seconds; `final` marks the one after training."""
        line = {
            "frames": frames,
            "seconds": seconds,
            "final": final,
            "returns": evaluation.returns,
            "lengths": evaluation.lengths,
        }
        _append(self._evaluations, line)
        self._board.log_metrics({"eval/final_return" if final else "eval/return": evaluation.mean}, step=frames)

    def checkpoint(self, frames: int, state: Mapping[str, Any], **metadata: Any) -> Path:
        """Write a checkpoint named after the frames trained so far, unless there is one already."""
        path = self.folder / "checkpoints" / f"frames-{frames:012d}"
        if not path.exists():
            save_checkpoint(path, state, {"frames": frames, **metadata})
        return path

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that this run has written."""
        return newest_checkpoint(self.folder)

    def close(self) -> None:
        """Close the files and draw `curve.png`."""
        self._metrics.close()
        self._evaluations.close()
        self._board.experiment.close()
        draw_curve(self.folder, self._window)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True)
            (self.folder / "checkpoints").mkdir()
        except FileExistsError as error:
            raise ConfigError(
                f"run-dir {self.folder} exists already; nothing was overwritten, name a new one"
            ) from error
        except OSError as error:
            raise ConfigError(f"run-dir {self.folder} cannot be made: {error.strerror}") from error

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=2) + "\n")


def versions() -> dict[str, Any]:
    """Packages, Python, commit and machine, as `versions.json` has them."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    machine = {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return {"python": platform.python_version(), "packages": installed, "commit": _commit(), "machine": machine}


def _commit() -> str | None:
    """The commit of the source tree that rlpipe runs from; `None` for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # an installed rlpipe may lie inside somebody else's repository
        ours = subprocess.run(
            [*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False
        )
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if ours.returncode == 0 else None


def _append(stream: Any, line: Mapping[str, Any]) -> None:
    stream.write(json.dumps(line) + "\n")
    stream.flush()


def _board_name(key: str) -> str:
    if key.startswith("loss_"):
        return f"loss/{key.removeprefix('loss_')}"
    return f"{'time' if key in ('seconds', 'frames_per_second') else 'train'}/{key}"


def _tensorboard(folder: Path) -> Any:
    from torchrl.record import TensorboardLogger  # noqa: PLC0415 - slow to import, and not needed to read a run

    return TensorboardLogger("tensorboard", log_dir=str(folder))
