"""`TrainConfig`, which every recipe's Config extends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.groups import MOST_PROCESSES, CollectionConfig, OptimizerConfig, RayConfig
from rlpipe.pipelines.config.run import SessionConfig

C = TypeVar("C", bound="TrainConfig")

MOST_FRAMES = 1_000_000_000
"""Most frames in a batch."""


@dataclass(frozen=True)
class TrainConfig(RayConfig, CollectionConfig, SessionConfig):
    """The options of every training run: environment, length, seed, evaluation and checkpoints. Checked when made.

    Raises:
        ConfigError: a field has the wrong type or a value that is not allowed.
    """

    help_group = "run"

    device: Literal["cpu", "cuda"] = "cpu"
    """Device of networks, batches and environments in tensors; all other environments are on the CPU."""

    def check(self) -> None:
        """Check the sizes, the collection and the device against each other."""
        super().check()
        self._check_sizes()
        self._check_collection()
        if isinstance(self, OptimizerConfig) and self.cuda_graphs:
            if self.device != "cuda":
                raise ConfigError(f"cuda_graphs is True, which needs device to be 'cuda'; it is {self.device!r}")
            if self.compile:
                raise ConfigError("cuda_graphs is True, which needs compile to be False; choose one of the two")

    def _check_sizes(self) -> None:
        num_envs, steps = self.num_envs, getattr(self, "rollout_steps", 1)
        if self.backend == "async" and num_envs > MOST_PROCESSES:
            raise ConfigError(
                f"num_envs is {num_envs}; allowed is at most {MOST_PROCESSES} with backend 'async', which starts a "
                "process for each"
            )
        if num_envs * steps > MOST_FRAMES:
            raise ConfigError(
                f"rollout_steps is {steps}; allowed is at most {MOST_FRAMES // num_envs} with num_envs {num_envs}, so "
                f"that a batch has at most {MOST_FRAMES} frames"
            )

    def _check_collection(self) -> None:
        if self.collector == "local":
            for name, value in (("num_collectors", self.num_collectors > 1), ("asynchronous", self.asynchronous)):
                if value:
                    raise ConfigError(
                        f"{name} is {getattr(self, name)} with collector 'local', which is this process alone; set "
                        "collector to 'processes'"
                    )
        self.check_ray(self.collector)
        collectors, num_envs = self.num_collectors, self.num_envs
        if collectors > num_envs:
            raise ConfigError(
                f"num_collectors is {collectors} with num_envs {num_envs}; each collector needs an environment: "
                f"allowed is at most {num_envs}"
            )
        if num_envs % collectors:
            raise ConfigError(
                f"num_collectors is {collectors}, and num_envs {num_envs} cannot be divided among them; with num_envs "
                f"{num_envs // collectors * collectors} or {ceil_div(num_envs, collectors) * collectors} it can"
            )
        if self.asynchronous and not self.is_off_policy():
            raise ConfigError(
                "asynchronous is True, with which batches come from older policies; this algorithm learns from its "
                "present one (on-policy), only those with replay, such as dqn, learn from any"
            )

    def is_off_policy(self) -> bool:
        """Whether the algorithm learns from any policy's actions; off-policy algorithms override it."""
        return False

    def to_act(self: C) -> C:
        """The config of a pipeline that only acts: on the CPU, without collectors and what only learning needs."""
        here = dataclasses.replace(self.on_cpu(), collector="local", num_collectors=1, asynchronous=False)
        return dataclasses.replace(here, backend="auto", schedule=())

    def on_cpu(self: C) -> C:
        """The same config with its networks on the CPU."""
        graphs: dict[str, Any] = {"cuda_graphs": False} if isinstance(self, OptimizerConfig) else {}
        return dataclasses.replace(self, device="cpu", **graphs)

    @property
    def frames_per_batch(self) -> int:
        """Environment steps of a collected batch."""
        return self.num_envs * int(getattr(self, "rollout_steps", 1))

    @property
    def batches(self) -> int:
        """Collected batches of the whole run."""
        return ceil_div(self.total_frames, self.frames_per_batch)

    def learning_batches(self, warmup: int) -> int:
        """Collected batches with updates: from the one on that brings the frames to `warmup`, 1 or more."""
        return self.batches - ceil_div(warmup, self.frames_per_batch) + 1
