"""What two runs must have in common if one is the other, stopped and resumed."""

import hashlib
import json
from pathlib import Path

import torch

from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.checkpoints.names import newest_checkpoint

TIMES = ("seconds", "frames_per_second", "collectors_waiting")


def fingerprint(folder: Path) -> dict[str, str]:
    """A digest of each journal, times aside, and of each component of the newest checkpoint."""
    prints = {name: _digest(_without_times(folder / f"{name}.jsonl")) for name in ("metrics", "evaluations")}
    checkpoint = newest_checkpoint(folder)
    assert checkpoint is not None
    manifest = read_manifest(checkpoint)
    # runs that were not begun by the command line leave the process's generators where they are
    kept = {name: content for name, content in manifest["components"].items() if name != "global_random"}
    for name, content in kept.items():
        timeless = _timeless(content) if name in ("progress", "line") else content
        # the digest of its tensors is in the manifest
        prints[name] = _digest([timeless, manifest["files"].get(f"{name}.safetensors")])
    return {**prints, "newest": checkpoint.name}


def _timeless(content: object) -> object:
    """What a component holds, without entries that are times, at any depth."""
    if isinstance(content, list):
        return [_timeless(each) for each in content]
    if not isinstance(content, dict) or "dict" not in content:
        return content
    return {"dict": [[key, _timeless(value)] for key, value in content["dict"] if key not in TIMES]}


def _without_times(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules hold the same numbers to the bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)
