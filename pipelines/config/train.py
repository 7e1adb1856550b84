"""`TrainConfig`, which every algorithm's Config extends, and the JSON form of Configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rlpipe.arithmetic import ceil_div
from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.older import completed
from rlpipe.pipelines.config.environment import EnvironmentConfig
from rlpipe.pipelines.config.fields import MANY, check_fields, number
from rlpipe.pipelines.config.foreign_names import explain
from rlpipe.pipelines.config.groups import (
    MOST_PROCESSES,
    CollectionConfig,
    OptimizerConfig,
    RayConfig,
    StoppingConfig,
)
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.runs.curve import WINDOW

C = TypeVar("C", bound="TrainConfig")

MOST_FRAMES = 1_000_000_000
"""Most frames in a batch."""


@dataclass(frozen=True)
class TrainConfig(StoppingConfig, RayConfig, CollectionConfig, EnvironmentConfig):
    """The options of every training run: environment, length, seed, evaluation and checkpoints. Checked when made.

    Raises:
        ConfigError: a field has the wrong type or a value that is not allowed.
    """

    seed: int = number(0, at_least=0, at_most=2**63 - 1)
    """Seed of every random stream of the run."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of networks, batches and environments in tensors; all other environments are on the CPU."""
    threads: int = number(1, at_least=1, at_most=1024)
    """Number of PyTorch's CPU threads; 1 is fastest for small networks."""
    eval_every: int | None = number(5_000, at_least=1, at_most=MANY)
    """Frames between two evaluations; `none` evaluates only after training."""
    eval_episodes: int = number(20, at_least=1, at_most=1_000_000)
    """Episodes per evaluation during training."""
    final_eval_episodes: int = number(100, at_least=1, at_most=1_000_000)
    """Episodes of the evaluation after training."""
    eval_envs: int | None = number(None, at_least=1, at_most=1_000)
    """Most environments in an evaluation; by default 100, or for custom ones 1 (after training `num_envs`)."""
    eval_stochastic: bool = False
    """Sample actions in evaluations during training; the final evaluation is always greedy."""
    eval_env_id: str | None = None
    """Evaluate on this environment instead of the training environment."""
    checkpoint_every: int | None = number(100_000, at_least=1, at_most=MANY)
    """Frames between two checkpoints, from which a run can be resumed; one is always written at the end."""
    log_every: int = number(1, at_least=1, at_most=MANY)
    """Frames between two lines of metrics, at least a batch; a line is the mean over its batches."""
    curve_window: int = number(WINDOW, at_least=1, at_most=MANY)
    """Episodes in the moving mean of `curve.png`."""
    gif: bool = False
    """Render an episode of the trained policy to `agent.gif`."""

    def __post_init__(self) -> None:
        self.name_environment()
        check_fields(self)
        self._check_sizes()
        self._check_collection()
        self.check_normalization()
        _check_pixels(self)
        # its constructor refuses what does not go together
        _ = self.env
        if self.eval_every is None and self.stop_at_return is not None:
            raise ConfigError(
                f"stop_at_return is {self.stop_at_return}, a return of evaluations during training, and eval_every is "
                "none; set eval_every to a number of frames"
            )
        if isinstance(self, OptimizerConfig) and self.cuda_graphs:
            if self.device != "cuda":
                raise ConfigError(f"cuda_graphs is True, which needs device to be 'cuda'; it is {self.device!r}")
            if self.compile:
                raise ConfigError("cuda_graphs is True, which needs compile to be False; choose one of the two")
        self.validate()

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
                "present one (on-policy), only dqn with replay learns from any"
            )

    def is_off_policy(self) -> bool:
        """Whether the algorithm learns from any policy's actions; off-policy algorithms override it."""
        return False

    def validate(self) -> None:
        """Check fields against each other; algorithms override it."""

    def to_act(self: C) -> C:
        """The config of a pipeline that only acts: on the CPU, without collectors and what only learning needs."""
        here = dataclasses.replace(self.on_cpu(), collector="local", num_collectors=1, asynchronous=False)
        return dataclasses.replace(here, backend="auto")

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

    @property
    def eval_env(self) -> EnvConfig:
        """The environment of evaluations."""
        kwargs = self.env_kwargs if self.eval_env_kwargs is None else self.eval_env_kwargs
        return dataclasses.replace(self.env, env_id=self.eval_env_id or self.env_id, kwargs=kwargs, log_info=())


def config_from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """Read a config back from its JSON form, `dataclasses.asdict`.

    Raises:
        ConfigError: an unknown or missing field, or a value that is not allowed.
    """
    values = completed(values)
    names = {each.name for each in dataclasses.fields(cls)}
    if wrong := sorted(names ^ set(values)):
        what = "an unknown" if wrong[0] in values else "no"
        # such as one that an older version had
        hint = explain(wrong[0], names, python=True) if wrong[0] in values else ""
        raise ConfigError(f"the config has {what} field {wrong[0]!r}{hint and f'; {hint}'}")
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return cls(**read)


def _check_pixels(config: TrainConfig) -> None:
    if not config.from_pixels:
        return
    if config.reward_shaping == "balance":
        raise ConfigError("reward_shaping is 'balance', which reads CartPole's own observation; from_pixels hides it")
    if config.normalize_observation:
        raise ConfigError("normalize_observation is True, but the network divides pixels by 255 itself; leave it out")
