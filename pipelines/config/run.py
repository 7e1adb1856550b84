"""The fields of Configs that a training run reads: its length, its seed, evaluations, checkpoints and logs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.environment import EnvironmentConfig
from rlpipe.pipelines.config.fields import LARGEST, MANY, CheckedConfig, number
from rlpipe.pipelines.config.schedules import start_schedules
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.runs.layout import WINDOW
from rlpipe.pipelines.stopping import StoppingRule


@dataclass(frozen=True)
class StoppingConfig(CheckedConfig):
    """The length of a run, and what may end it earlier."""

    help_group = "run"

    total_frames: int = number(50_000, at_least=1, at_most=MANY)
    """Environment steps to train for, rounded up to whole batches."""
    total_episodes: int | None = number(None, at_least=1, at_most=MANY)
    """Stop once this many episodes have ended."""
    stop_at_return: float | None = number(None, at_least=-LARGEST, at_most=LARGEST)
    """Stop once an evaluation return, the mean over its episodes, reaches this."""
    stop_at_mean: float | None = number(None, at_least=-LARGEST, at_most=LARGEST)
    """Stop once the mean training return of the last `stop_window` episodes reaches this."""
    stop_window: int = number(100, at_least=1, at_most=1_000_000)
    """Number of episodes in that mean."""
    stop_after_successes: int | None = number(None, at_least=1, at_most=MANY)
    """Stop after this many consecutive training episodes with a return of `success_return` or more."""
    success_return: float = number(475.0, at_least=-LARGEST, at_most=LARGEST)
    """Lowest return that counts as a success."""

    @property
    def stopping(self) -> StoppingRule:
        """The rule that these fields describe."""
        return StoppingRule(
            total_episodes=self.total_episodes,
            at_return=self.stop_at_return,
            at_mean=self.stop_at_mean,
            window=self.stop_window,
            successes=self.stop_after_successes,
            success_return=self.success_return,
        )


@dataclass(frozen=True)
class EvaluationConfig(CheckedConfig):
    """Evaluations during training, and the one after it."""

    help_group = "evaluation"

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


@dataclass(frozen=True)
class OutputConfig(CheckedConfig):
    """What a run writes."""

    help_group = "output"

    checkpoint_every: int | None = number(100_000, at_least=1, at_most=MANY)
    """Frames between two checkpoints, from which a run can be resumed; one is always written at the end."""
    log_every: int = number(1, at_least=1, at_most=MANY)
    """Frames between two lines of metrics, at least a batch; a line is the mean over its batches."""
    curve_window: int = number(WINDOW, at_least=1, at_most=MANY)
    """Episodes in the mean training return that `curve.png` and the live view show."""
    gif: bool = False
    """Render an episode of the trained policy to `agent.gif`."""


@dataclass(frozen=True)
class RunConfig(OutputConfig, EvaluationConfig, StoppingConfig):
    """The options of every training run: length, seed, evaluation, checkpoints and logs."""

    help_group = "run"

    seed: int = number(0, at_least=0, at_most=2**63 - 1)
    """Seed of every random stream of the run."""
    threads: int = number(1, at_least=1, at_most=1024)
    """Number of PyTorch's CPU threads; 1 is fastest for small networks."""
    schedule: tuple[str, ...] = ()
    """Numbers that change during training: `clip=linear:0.2:0` (KIND:START:END, with :FRAMES or not; `cosine`,
    `exponential`); `--clip linear:0.2:0` means the same."""

    def __post_init__(self) -> None:
        start_schedules(self)
        super().__post_init__()

    def check(self) -> None:
        """Check that evaluations are made for a rule that needs them."""
        super().check()
        if self.eval_every is None and self.stop_at_return is not None:
            raise ConfigError(
                f"stop_at_return is {self.stop_at_return}, a return of evaluations during training, and eval_every is "
                "none; set eval_every to a number of frames"
            )


@dataclass(frozen=True)
class SessionConfig(RunConfig, EnvironmentConfig):
    """What a `Session` reads of a Config."""

    @property
    def eval_env(self) -> EnvConfig:
        """The environment of evaluations."""
        kwargs = self.env_kwargs if self.eval_env_kwargs is None else self.eval_env_kwargs
        return dataclasses.replace(self.env, env_id=self.eval_env_id or self.env_id, kwargs=kwargs, log_info=())


def settings_of(config: Any) -> SessionConfig:
    """What a `Session` reads of any Config: its own fields, and the defaults of those that it does not have.

    Raises:
        ConfigError: a field of a name that rlpipe knows has the wrong type or a value that is not allowed.
    """
    if isinstance(config, SessionConfig):
        return config
    names = [each.name for each in dataclasses.fields(SessionConfig) if hasattr(config, each.name)]
    # schedules may be of fields that a session does not read
    return SessionConfig(**{name: getattr(config, name) for name in names if name != "schedule"})
