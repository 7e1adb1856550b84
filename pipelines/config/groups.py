"""Groups of fields that several Configs share.

A Config that needs another default overrides the field in one line, `lr: float = 3e-3`: bounds and help are inherited.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from rlpipe.errors import ConfigError
from rlpipe.kinds import Activation, Execution, Initialization, MemoryKind, Regression, ScheduleKind
from rlpipe.pipelines.child_processes import split_address
from rlpipe.pipelines.config.environment import EnvironmentConfig
from rlpipe.pipelines.config.fields import LARGEST, MANY, CheckedConfig, number
from rlpipe.pipelines.config.run import RunConfig

MOST_PROCESSES = 1_000
"""Most environments with a process each."""
CollectorKind = Literal["local", "processes", "ray"]
LearningRateSchedule = Literal["constant", "linear", "cosine", "steps"]


@dataclass(frozen=True)
class RayConfig(CheckedConfig):
    """Where Ray places collectors, and what it reserves for them."""

    help_group = "Ray"

    ray_address: str | None = None
    """`HOST:PORT` of the head of a Ray cluster; by default, Ray is started on this machine for the run."""
    ray_cpus: float = number(1.0, at_least=0, at_most=10_000)
    """Processor cores that Ray reserves for each collector; above 1 only whole numbers."""
    ray_gpus: float = number(0.0, at_least=0, at_most=1_000)
    """GPUs that Ray reserves for each collector, for environments that need one; policies act on the CPU there."""
    ray_memory: int | None = number(None, at_least=1, at_most=100_000_000)
    """Memory that Ray reserves for each collector, in MiB."""

    def check_ray(self, collector: str) -> None:
        """Check the address, the amounts, and that no option is without effect.

        Raises:
            ConfigError: names the field.
        """
        for each in fields(RayConfig):
            # the address may also be that of `--jobs ray`: `Session` checks it
            if each.name != "ray_address" and collector != "ray" and getattr(self, each.name) != each.default:
                raise ConfigError(
                    f"{each.name} is {getattr(self, each.name)} with collector {collector!r}; set collector to 'ray'"
                )
        if self.ray_address is not None:
            split_address(self.ray_address)
        for name in ("ray_cpus", "ray_gpus"):
            amount = getattr(self, name)
            if amount > 1 and amount % 1:
                raise ConfigError(f"{name} is {amount}; allowed are numbers up to 1, and above 1 only whole numbers")


@dataclass(frozen=True)
class NetworkConfig(CheckedConfig):
    """The shape of the networks."""

    help_group = "network"

    hidden: tuple[int, ...] = number((64, 64), at_least=1, at_most=16_384, at_most_numbers=100)
    """Sizes of the hidden layers."""
    activation: Activation = "tanh"
    """Activation function between layers."""
    initialization: Initialization = "orthogonal"
    """Initialisation of linear and convolutional layers; `default` is PyTorch's."""
    layer_norm: bool = False
    """Apply layer normalisation before each activation; keeps Q-learning from diverging."""
    observation_scale: tuple[float, ...] | None = number(
        None, at_least=1e-30, at_most=LARGEST, at_most_numbers=1_000_000
    )
    """Divide each feature of a Box observation by the matching number."""


@dataclass(frozen=True)
class ActorConfig(NetworkConfig):
    """The networks of a stochastic policy."""

    help_group = "network"

    state_dependent_std: bool = False
    """Let the network output the standard deviation of Box actions, instead of one that is the same in every state."""
    initial_std: float = number(1.0, at_least=1e-3, at_most=100)
    """Standard deviation of Box actions at the start, before they are squashed into their bounds."""


@dataclass(frozen=True)
class OptimizerConfig(CheckedConfig):
    """The optimiser and its learning rate."""

    help_group = "optimiser"

    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` has PyTorch's default weight decay, 0.01."""
    amsgrad: bool = False
    """Use the AMSGrad variant of the optimiser."""
    lr: float = number(2e-3, above=0, at_most=LARGEST)
    """Initial learning rate; those of CartPole are high, 3e-4 is common elsewhere."""
    lr_schedule: LearningRateSchedule = "linear"
    """How the learning rate falls during training: to 0 (`linear`, `cosine`), or in `steps`."""
    lr_factor: float = number(0.92, above=0, at_most=1)
    """Multiply the learning rate by this at each of the `steps`."""
    lr_every: int = number(16_000, at_least=1, at_most=MANY)
    """Frames between two of the `steps` of the learning rate."""
    adam_eps: float = number(1e-5, at_least=1e-30, at_most=1e6)
    """Added to the denominator of Adam's step; PyTorch's default is 1e-8."""
    max_grad_norm: float | None = number(0.5, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""
    compile: bool = False
    """Compile updates with a C++ compiler; pays from 500,000 frames of `ppo` on, and from 100,000 the next time."""
    cuda_graphs: bool = False
    """Run the loss and its gradient as one CUDA graph; needs device cuda."""

    @property
    def execution(self) -> Execution:
        """How the gradient is computed, see `make_gradient`."""
        if self.cuda_graphs:
            return "graphed"
        return "compiled" if self.compile else "recorded"


@dataclass(frozen=True)
class RolloutConfig(CheckedConfig):
    """The batches that are collected, and the discount of their rewards."""

    rollout_steps: int = number(64, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount factor per step."""


@dataclass(frozen=True)
class MemoryConfig(CheckedConfig):
    """What a policy remembers of an episode."""

    help_group = "network"

    recurrent: MemoryKind | None = None
    """Put a recurrent layer behind the hidden ones, which actor and critic then share; for hidden states."""
    recurrent_size: int = number(128, at_least=1, at_most=16_384)
    """Size of the recurrent layer."""


@dataclass(frozen=True)
class PolicyGradientConfig(RolloutConfig, OptimizerConfig, MemoryConfig, ActorConfig):
    """A stochastic policy that follows the gradient of its returns, with a state value beside it."""

    value_kind: Regression = "mse"
    """Loss between the value and its target."""
    value_coefficient: float = number(0.5, at_least=0, at_most=1e6)
    """Weight of the value loss."""
    entropy_coefficient: float = number(0.0, at_least=0, at_most=1e6)
    """Weight of the entropy bonus; higher explores for longer."""


@dataclass(frozen=True)
class ActorCriticConfig(PolicyGradientConfig):
    """A policy gradient with generalized advantage estimation."""

    lmbda: float = number(0.95, at_least=0, at_most=1)
    """Lambda of generalized advantage estimation."""
    normalize_advantage: bool = True
    """Normalise the advantages of each minibatch to mean 0 and standard deviation 1."""
    shared_trunk: bool = False
    """Share the hidden layers between actor and critic."""


@dataclass(frozen=True)
class ExplorationConfig(CheckedConfig):
    """Epsilon-greedy exploration."""

    help_group = "exploration"

    epsilon_schedule: ScheduleKind = "linear"
    """How epsilon falls: over frames `linear`, `exponential`; by episodes `geometric`, `harmonic` (start / (1 +
    episodes))."""
    epsilon_start: float = number(1.0, at_least=0, at_most=1)
    """Initial epsilon, the probability of a random action."""
    epsilon_end: float = number(0.05, at_least=0, at_most=1)
    """Lowest epsilon; not used by `harmonic`, which falls to 0."""
    epsilon_frames: int = number(5_000, at_least=1, at_most=MANY)
    """Frames until the lowest epsilon (`linear`), or the decay constant in frames (`exponential`)."""
    epsilon_factor: float = number(0.9995, above=0, at_most=1)
    """Multiply epsilon by this after each episode (`geometric`)."""


@dataclass(frozen=True)
class LivesConfig(CheckedConfig):
    """Lives, in environments that count them, such as Atari games."""

    help_group = "environment"

    end_at_life_loss: bool = False
    """Treat a lost life as the end of an episode when learning; returns and evaluations cover whole games."""


@dataclass(frozen=True)
class CollectionConfig(CheckedConfig):
    """Where environments are stepped."""

    help_group = "collection"

    collector: CollectorKind = "local"
    """`local`: collect in this process; `processes`: in `num_collectors` processes on this machine; `ray`: in Ray's."""
    num_collectors: int = number(1, at_least=1, at_most=MOST_PROCESSES)
    """Number of collector processes; `num_envs` is divided among them."""
    asynchronous: bool = False
    """Learn from one collector's batch while the others keep collecting with an older policy; off-policy only."""


@dataclass(frozen=True)
class ActionNoiseConfig(CheckedConfig):
    """Noise that explores Box actions."""

    help_group = "exploration"

    noise_std: float = number(0.1, at_least=0, at_most=1e6)
    """Standard deviation of the noise added to actions in training, in units of half the action's range."""
    noise_steps: float = number(1.0, at_least=1, at_most=1e6)
    """Steps for which noise lasts (Ornstein-Uhlenbeck), within an episode; 1 is independent noise in each step."""


@dataclass(frozen=True)
class BufferConfig(EnvironmentConfig):
    """A replay buffer, and the minibatches from it."""

    help_group = "replay"

    minibatch_size: int = number(256, at_least=1, at_most=10_000_000)
    """Transitions per gradient step, drawn uniformly from the buffer."""
    buffer_size: int = number(50_000, at_least=1, at_most=1_000_000_000)
    """Most transitions in the replay buffer; the oldest are overwritten first."""
    warmup_frames: int = number(1_000, at_least=1, at_most=MANY)
    """Frames collected before the first gradient step."""

    def check_buffer(self, frames_per_batch: int, total_frames: int, unless: str = "") -> None:
        """Check that the buffer holds a minibatch, the warm-up and a batch, and that nothing in it is normalised.

        Args:
            frames_per_batch: of a collected batch.
            total_frames: of the run.
            unless: what else a user may do about normalisation, for the message.

        Raises:
            ConfigError: it does not, or the warm-up never ends.
        """
        for name in ("normalize_observation", "normalize_reward"):
            if getattr(self, name):
                raise ConfigError(
                    f"{name} is True with replay, whose transitions would stay normalised by the statistics of their "
                    f"time; use ppo, a2c or reinforce{unless}"
                )
        for name, value in (("minibatch_size", self.minibatch_size), ("warmup_frames", self.warmup_frames)):
            if value > self.buffer_size:
                raise ConfigError(f"{name} is {value}; allowed is at most {self.buffer_size}, the buffer_size")
        if frames_per_batch > self.buffer_size:
            raise ConfigError(
                f"buffer_size is {self.buffer_size}; allowed is {frames_per_batch} or more, the frames of a batch "
                "(num_envs * rollout_steps)"
            )
        if self.warmup_frames > total_frames:
            raise ConfigError(
                f"warmup_frames is {self.warmup_frames}; allowed is at most {total_frames}, the total_frames"
            )


@dataclass(frozen=True)
class ReplayConfig(BufferConfig):
    """Learning from a replay buffer, or without it."""

    help_group = "replay"

    replay: bool = True
    """Learn from minibatches of a replay buffer; if off, one gradient step per batch."""
    updates: int = number(20, at_least=1, at_most=100_000)
    """Gradient steps per collected batch."""
    replay_storage: Literal["transitions", "frames", "frames-on-disk"] = "transitions"
    """How transitions are stored: `frames` keeps each frame of stacked pixels once, not eight times; or on disk."""

    def check_replay(self, frames_per_batch: int, total_frames: int) -> None:
        """Check the buffer, see `check_buffer`, unless there is none.

        Raises:
            ConfigError: it does not fit, or a storage is given without replay.
        """
        if self.replay:
            self.check_buffer(frames_per_batch, total_frames, ", or set replay to False")
        elif self.replay_storage != "transitions":
            raise ConfigError(f"replay_storage is {self.replay_storage!r}, which needs replay to be True")


def groups_with(option: str) -> list[str]:
    """The groups for Configs that have a field of this name, with dashes or underscores; the smallest first."""
    name = option.replace("-", "_")
    groups = (
        RunConfig,
        OptimizerConfig,
        NetworkConfig,
        ActorConfig,
        RolloutConfig,
        MemoryConfig,
        ActorCriticConfig,
        ExplorationConfig,
        CollectionConfig,
        ActionNoiseConfig,
        EnvironmentConfig,
        BufferConfig,
        ReplayConfig,
    )
    return [group.__name__ for group in groups if name in {each.name for each in fields(group)}]
