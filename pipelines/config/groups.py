"""Groups of fields that several Configs share.

A Config that needs another default overrides the field in one line, `lr: float = 3e-3`: bounds and help are inherited.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from rlpipe.errors import ConfigError
from rlpipe.losses.functional import Regression
from rlpipe.modules.exploration import ScheduleKind
from rlpipe.modules.networks import Activation, Initialization
from rlpipe.pipelines.config.fields import LARGEST, MANY, number
from rlpipe.pipelines.devices import Execution, split_address
from rlpipe.pipelines.envs.backends.choice import Backend
from rlpipe.pipelines.envs.config import EnvConfig
from rlpipe.pipelines.envs.reward_shaping import RewardShaping
from rlpipe.pipelines.stopping import StoppingRule

MOST_PROCESSES = 1_000
"""Most environments with a process each."""
CollectorKind = Literal["local", "processes", "ray"]
LearningRateSchedule = Literal["constant", "linear", "cosine", "steps"]


@dataclass(frozen=True)
class RayConfig:
    """Where Ray places collectors, and what it reserves for them."""

    ray_address: str | None = None
    """`HOST:PORT` of the head of a Ray cluster; without, Ray is started on this machine for the run."""
    ray_cpus: float = number(1.0, at_least=0, at_most=10_000)
    """Processor cores that Ray reserves for each collector; more than 1 in whole numbers."""
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
                raise ConfigError(f"{name} is {amount}; allowed are numbers up to 1, and whole ones above")


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the networks."""

    hidden: tuple[int, ...] = number((64, 64), at_least=1, at_most=16_384, at_most_numbers=100)
    """Sizes of the hidden layers."""
    activation: Activation = "tanh"
    """Activation between layers."""
    initialization: Initialization = "orthogonal"
    """Of linear and convolutional layers; `default` is PyTorch's."""
    layer_norm: bool = False
    """Normalise each hidden layer before its activation; keeps Q-learning from diverging."""
    observation_scale: tuple[float, ...] | None = number(
        None, at_least=1e-30, at_most=LARGEST, at_most_numbers=1_000_000
    )
    """Divide each feature of a Box observation by its number here."""


@dataclass(frozen=True)
class ActorConfig(NetworkConfig):
    """The networks of a stochastic policy."""

    state_dependent_std: bool = False
    """The standard deviation of Box actions comes from the network, instead of being the same in every state."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rate."""

    optimizer: Literal["adam", "adamw"] = "adam"
    """`adamw` has PyTorch's default weight decay, 0.01."""
    amsgrad: bool = False
    """The AMSGrad variant of the optimiser."""
    lr: float = number(2e-3, above=0, at_most=LARGEST)
    """Learning rate at the start; high for the sake of CartPole, 3e-4 is a usual one."""
    lr_schedule: LearningRateSchedule = "linear"
    """How the learning rate falls with the batches learned from: to 0 (`linear`, `cosine`), or in `steps`."""
    lr_factor: float = number(0.92, above=0, at_most=1)
    """Factor of the learning rate at each of its `steps`."""
    lr_every: int = number(16_000, at_least=1, at_most=MANY)
    """Frames from one of its `steps` to the next."""
    adam_eps: float = number(1e-5, at_least=1e-30, at_most=1e6)
    """Added to the denominator of Adam's step; PyTorch's default is 1e-8."""
    max_grad_norm: float | None = number(0.5, above=0, at_most=LARGEST)
    """Scale gradients down to this norm."""
    compile: bool = False
    """Have PyTorch's compiler make code of the update, which takes it some time at the start; needs a C++ compiler."""
    cuda_graphs: bool = False
    """Launch the loss and its gradient on the GPU as one CUDA graph; with device cuda."""

    @property
    def execution(self) -> Execution:
        """How the gradient is computed, see `make_gradient`."""
        if self.cuda_graphs:
            return "graphed"
        return "compiled" if self.compile else "recorded"


@dataclass(frozen=True)
class RolloutConfig:
    """The batches that are collected, and the discount of their rewards."""

    rollout_steps: int = number(64, at_least=1, at_most=1_000_000)
    """Steps of each environment in a batch."""
    gamma: float = number(0.99, at_least=0, at_most=1)
    """Discount a step."""


@dataclass(frozen=True)
class PolicyGradientConfig(RolloutConfig, OptimizerConfig, ActorConfig):
    """A stochastic policy that follows the gradient of its returns, with a state value beside it."""

    value_kind: Regression = "mse"
    """How the value is regressed on its target."""
    value_coefficient: float = number(0.5, at_least=0, at_most=1e6)
    """Weight of the value loss."""
    entropy_coefficient: float = number(0.0, at_least=0, at_most=1e6)
    """Weight of the entropy bonus; higher explores for longer."""


@dataclass(frozen=True)
class ActorCriticConfig(PolicyGradientConfig):
    """A policy gradient with generalized advantage estimation."""

    lmbda: float = number(0.95, at_least=0, at_most=1)
    """Of generalized advantage estimation."""
    normalize_advantage: bool = True
    """Advantages of a minibatch to mean 0 and standard deviation 1."""
    shared_trunk: bool = False
    """Actor and critic share their hidden layers."""


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy exploration."""

    epsilon_schedule: ScheduleKind = "linear"
    """Over frames: `linear`, `exponential`. By episodes: `geometric`, `harmonic` (start / (1 + episodes))."""
    epsilon_start: float = number(1.0, at_least=0, at_most=1)
    """Probability of a random action at the start."""
    epsilon_end: float = number(0.05, at_least=0, at_most=1)
    """Its lower limit; `harmonic` has none but 0."""
    epsilon_frames: int = number(5_000, at_least=1, at_most=MANY)
    """Frames to the end (`linear`), or the decay constant (`exponential`)."""
    epsilon_factor: float = number(0.9995, above=0, at_most=1)
    """Factor a finished episode (`geometric`)."""


@dataclass(frozen=True)
class LivesConfig:
    """Lives, in environments that count them, such as Atari games."""

    end_at_life_loss: bool = False
    """To learning, the loss of a life ends an episode; returns, and evaluations, are of whole games."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """The environment, and what is made of its rewards and observations."""

    env_id: str = "CartPole-v1"
    """Gymnasium id of the environment."""
    num_envs: int = number(1, at_least=1, at_most=1_000_000)
    """Environments that step together."""
    backend: Backend = "auto"
    """`auto`: in one process, vectorised where possible; `async`: a process each; `envpool`: in C++, an extra."""
    max_episode_steps: int | None = number(None, at_least=1, at_most=1_000_000_000)
    """Truncate episodes here instead of at the environment's own limit."""
    reward_shaping: RewardShaping = "none"
    """Learn from a reward made for CartPole, or `clip` it to -1 to 1; reported returns stay the environment's own."""
    shaping_steps: int = number(500, at_least=1, at_most=1_000_000_000)
    """Steps that an episode must last for the good end of `outcome` and `fall`."""
    normalize_frames: int | None = number(None, at_least=2, at_most=1_000_000)
    """Normalise observations by their mean and standard deviation over so many random frames before training."""
    from_pixels: bool = False
    """Observe what the environment draws instead: the last four pictures in grey, 84x84."""

    @property
    def env(self) -> EnvConfig:
        """What `make_env` takes."""
        return EnvConfig(self.env_id, self.num_envs, self.backend, self.max_episode_steps, self.from_pixels)


@dataclass(frozen=True)
class CollectionConfig:
    """Where environments are stepped."""

    collector: CollectorKind = "local"
    """`local`: in this process; `processes`: in `num_collectors` others of this machine; `ray`: in others by Ray."""
    num_collectors: int = number(1, at_least=1, at_most=MOST_PROCESSES)
    """Collectors in processes of their own, among which `num_envs` is divided."""
    asynchronous: bool = False
    """Learn from one collector's batch while the others go on with an older policy; off-policy only."""


@dataclass(frozen=True)
class ReplayConfig(EnvironmentConfig):
    """Learning from a replay buffer."""

    replay: bool = True
    """Learn from minibatches of a replay buffer; without, from each batch as a whole, once."""
    updates: int = number(20, at_least=1, at_most=100_000)
    """Gradient steps a batch."""
    minibatch_size: int = number(256, at_least=1, at_most=10_000_000)
    """Samples of one gradient step, drawn uniformly from the buffer."""
    buffer_size: int = number(50_000, at_least=1, at_most=1_000_000_000)
    """Transitions that the replay buffer holds; the oldest go first."""
    replay_storage: Literal["transitions", "frames", "frames-on-disk"] = "transitions"
    """What it keeps: `frames` keeps each frame of stacked pixels once, not eight times; or does so on the disk."""
    warmup_frames: int = number(1_000, at_least=1, at_most=MANY)
    """Frames collected before the first gradient step."""

    def check_replay(self, frames_per_batch: int, total_frames: int) -> None:
        """Check that the buffer holds a minibatch, the warm-up and a batch.

        Raises:
            ConfigError: it does not, the warm-up never ends, or a storage is given without replay.
        """
        if not self.replay:
            if self.replay_storage != "transitions":
                raise ConfigError(f"replay_storage is {self.replay_storage!r}, which needs replay to be True")
            return
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
class StoppingConfig:
    """How long a run is, and what may end it earlier."""

    total_frames: int = number(50_000, at_least=1, at_most=MANY)
    """Environment steps to train for, rounded up to whole batches."""
    total_episodes: int | None = number(None, at_least=1, at_most=MANY)
    """Stop once this many episodes have ended."""
    stop_at_return: float | None = number(None, at_least=-LARGEST, at_most=LARGEST)
    """Stop once an evaluation's mean return reaches this."""
    stop_at_mean: float | None = number(None, at_least=-LARGEST, at_most=LARGEST)
    """Stop once the last `stop_window` training episodes have this mean return."""
    stop_window: int = number(100, at_least=1, at_most=1_000_000)
    """Episodes of that mean."""
    stop_after_successes: int | None = number(None, at_least=1, at_most=MANY)
    """Stop after so many training episodes in a row with `success_return` or more."""
    success_return: float = number(475.0, at_least=-LARGEST, at_most=LARGEST)
    """Return of an episode that is a success."""

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
