"""A small real run, and what somebody who means harm may put in its place."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rlpipe.pipelines.checkpoints.checkpoint import _digest, _sealed
from rlpipe.scripts.main import run

DQN = ["--num-envs", "2", "--rollout-steps", "8", "--minibatch-size", "8", "--warmup-frames", "16", "--quiet"]
SIZES = [*DQN, "--buffer-size", "64", "--hidden", "8", "--final-eval-episodes", "2", "--lr-schedule", "linear"]
MARK = "executed"
COMMANDS = {
    "evaluate": ["evaluate", "run", "--episodes", "1"],
    "resume": ["resume", "run", "--quiet", "--total-frames", "80"],
    "table": ["table", "run"],
    "start-from": ["train", "dqn", *SIZES, "--total-frames", "32", "--start-from", "run", "--run-dir", "new/run"],
    "export": ["export", "run", "--out", "new/policy.safetensors"],
    "render": ["render", "run", "--out", "new/agent.gif", "--max-steps", "5", "--quiet"],
    "report": ["report", "run", "--out", "new/report.html"],
}


def make_run(folder: Path, recipe: str = "dqn", *options: str) -> Path:
    """A run of 64 frames with two checkpoints, and two evaluations."""
    every = ["--total-frames", "64", "--checkpoint-every", "32", "--eval-every", "32", "--eval-episodes", "1"]
    assert run(["train", recipe, *(options or SIZES), *every, "--run-dir", str(folder)]) == 0
    return folder


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run."""
    return sorted((folder / "checkpoints").glob("frames-*"))


def seal(checkpoint: Path, change: Callable[[dict[str, Any]], object] | None = None) -> None:
    """Change the content of `checkpoint.json`, and make every digest agree with what is there now."""
    file = checkpoint / "checkpoint.json"
    content = json.loads(file.read_text())["content"]
    for name in content["files"]:
        if (checkpoint / name).is_file():
            content["files"][name] = _digest(checkpoint / name)
    if change is not None:
        change(content)
    file.write_text(_sealed(content))


def put(component: str, path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change for `seal`: the place `path` (keys and indices) of a component becomes the JSON `value`."""

    def change(content: dict[str, Any]) -> None:
        holder, key = content["components"], component
        for step in filter(None, path.split("/")):
            holder, key = _open(holder[key]), step
            if isinstance(holder, list) and holder and isinstance(holder[0], list):
                pair = next(each for each in holder if str(each[0]) == step)
                holder, key = pair, 1
            elif isinstance(holder, list):
                key = int(step)
        holder[key] = value

    return change


def _open(value: Any) -> Any:
    """What a tagged object holds."""
    return next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else value


def change_tensors(checkpoint: Path, component: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a component's tensors, and seal the checkpoint."""
    file = checkpoint / f"{component}.safetensors"
    tensors = load_file(file)
    change(tensors)
    file.unlink()
    save_file(tensors, file)
    seal(checkpoint)


class Payload:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def payloads() -> dict[str, bytes]:
    """Files that run code in whoever loads them carelessly, and some that are only odd."""
    saved, zipped, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Payload(), saved)
    np.save(array, np.array([Payload()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(f"../{MARK}", "")
    return {
        "pickle": pickle.dumps(Payload()),
        "torch": saved.getvalue(),
        "numpy": array.getvalue(),
        "zip": zipped.getvalue(),
        "yaml": f'config: !!python/object/apply:os.system ["touch {MARK}"]\n'.encode(),
        "random": np.random.default_rng(0).bytes(4_000),
        "empty": b"",
    }


def outside(here: Path) -> dict[str, bytes]:
    """Every file below `here`, but for the run and what commands make."""
    files = [path for path in here.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): path.read_bytes() for path in files if path.relative_to(here).parts[0] not in ("run", "new")}


def logged(folder: Path) -> list[bytes]:
    """What a resume that is refused must leave as it is."""
    return [(folder / f"{name}.jsonl").read_bytes() for name in ("metrics", "evaluations")]
