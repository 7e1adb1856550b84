"""The collector inside a Ray actor; and why Ray lost one."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from ray.exceptions import ActorUnavailableError
from tensordict import TensorDictBase

from rlpipe.errors import RlpipeError, TrainingError
from rlpipe.pipelines.collectors.multi import WorkerSetup
from rlpipe.pipelines.collectors.worker import WorkerCollector

WORKER = ("collector", "worker")
"""The entry of a batch that holds the index of its collector."""


class RayWorker(WorkerCollector):
    """A `WorkerCollector` in an actor of Ray, the one of `index` among `count`, with `threads` of PyTorch."""

    def __init__(self, create_env_fn: Any, *, index: int, count: int, threads: int, **options: Any) -> None:
        torch.set_num_threads(threads)
        super().__init__(create_env_fn, **options)
        self._index, self._count = index, count

    def __bool__(self) -> bool:
        # Ray tests this for an actor that raised, and the length of an endless TorchRL collector is no whole number
        return True

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yield batch after batch, each with `("collector", "worker")`."""
        try:
            for batch in super().iterator():
                yield batch.set(WORKER, torch.full(batch.shape, self._index))
        except Exception as error:  # the learner's process reports it
            kind = "" if isinstance(error, RlpipeError) else f"{type(error).__name__}: "
            raise TrainingError(f"collector {self._index} of {self._count} failed: {kind}{error}") from None

    def obey(self, method: str, *arguments: Any) -> Any:
        """Call a method with copies of the arguments, because Ray's are read-only."""
        return self.cascade_execute(method, *copy.deepcopy(arguments))


def worker_options(setup: WorkerSetup) -> list[dict[str, Any]]:
    """Options of each `RayWorker`."""
    shared = {
        "count": len(setup.create_env_fn),
        "threads": setup.threads,
        "track_traj_ids": False,
        "use_buffers": False,
        "trust_policy": True,
        "auto_register_policy_transforms": False,
    }
    return [{**shared, "index": index, "seed": seed} for index, seed in enumerate(setup.seeds())]


def why_lost(error: Exception) -> str:
    """Why Ray lost an actor, in a few words."""
    text = str(error)
    raised = (
        re.findall(r"^\s*(?:[\w.]+\.)?(\w+(?:Error|Exception): .*)", text, re.MULTILINE) if "Error:" in text else []
    )
    if "  File " in text and raised:
        # the last line of a traceback
        return " ".join(raised[-1].removeprefix("ConfigError: ").split())
    if isinstance(error, ActorUnavailableError) or "its node has died" in text:
        return "its machine or process cannot be reached"
    found = re.search(r"Worker exit detail: (.*?)(?:\. |\.?$)", text, re.DOTALL)
    if found is not None:
        # if it was killed, Ray knows nothing more
        return "its process died" if "connection error" in found[1] else "its process ended: " + found[1]
    return f"{type(error).__name__}: {' '.join(text.split())[:300]}"
