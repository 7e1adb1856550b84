"""What the Configs of the tabular methods share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlpipe.errors import ConfigError
from rlpipe.pipelines.config.fields import LARGEST, number
from rlpipe.pipelines.config.groups import ExplorationConfig
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.stopping import StoppingRule


@dataclass(frozen=True)
class TabularConfig(TrainConfig):
    """A table over Discrete observations, or over a Box cut into bins."""

    env_id: str = "rlpipe/Maze-v0"
    """Gymnasium id of the environment."""
    rollout_steps: int = number(1, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch; the policy changes only between batches."""
    step_size: float = number(0.1, above=0, at_most=1e6)
    """Fraction of its error by which an entry of the table moves."""
    stop_at_change: float | None = number(None, above=0, at_most=LARGEST)
    """Stop once an episode changes the greedy values, or the policy, by less than this in total."""
    bins: int | None = number(None, at_least=1, at_most=1_000_000)
    """Cut each feature of a Box observation into this many bins."""
    bin_low: tuple[float, ...] | None = number(None, at_least=-LARGEST, at_most=LARGEST, at_most_numbers=50)
    """Lower end of the bins of each feature."""
    bin_high: tuple[float, ...] | None = number(None, at_least=-LARGEST, at_most=LARGEST, at_most_numbers=50)
    """Upper end of the bins of each feature."""

    @property
    def stopping(self) -> StoppingRule:
        """The rule that the config's fields describe."""
        return replace(super().stopping, at_change=self.stop_at_change)

    def validate(self) -> None:
        """Check that bins have limits, and that the table is on the CPU and does not see images."""
        if self.from_pixels:
            raise ConfigError("from_pixels is True, but a table cannot use images; choose ppo, a2c, reinforce or dqn")
        for name in ("normalize_observation", "normalize_reward"):
            if getattr(self, name):
                raise ConfigError(f"{name} is True, but a table has no use for it; choose ppo, a2c or reinforce")
        if self.bins is not None and (self.bin_low is None or self.bin_high is None):
            raise ConfigError(f"bins is {self.bins}, which needs bin_low and bin_high, one number per feature each")
        if self.bins is None and (self.bin_low, self.bin_high) != (None, None):
            raise ConfigError("bin_low and bin_high need bins, the number of bins of each feature")
        if self.device != "cpu":
            raise ConfigError(f"device is {self.device!r}; a table is on the CPU, use --device cpu")


@dataclass(frozen=True)
class ActionValueConfig(ExplorationConfig, TabularConfig):
    """A table of action values, and epsilon-greedy exploration."""

    gamma: float = number(0.9, at_least=0, at_most=1)
    """Discount factor per step."""
