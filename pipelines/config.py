"""Configs: frozen dataclasses that are valid whenever they exist, and their JSON form.

Each algorithm's own Config is in its file; here is what all of them share.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rlpipe.errors import ConfigError
from rlpipe.modules.exploration import ScheduleKind
from rlpipe.modules.networks import Activation, Initialization
from rlpipe.pipelines.envs.config import Backend, EnvConfig
from rlpipe.pipelines.envs.shaping import RewardShaping
from rlpipe.pipelines.fields import LARGEST, MANY, check_fields, number
from rlpipe.pipelines.folder import completed
from rlpipe.pipelines.placement import RayConfig
from rlpipe.pipelines.recording import Execution
from rlpipe.pipelines.stopping import StoppingRule

C = TypeVar("C", bound="TrainConfig")
CollectorKind = Literal["local", "processes", "ray"]
LearningRateSchedule = Literal["constant", "linear", "cosine", "steps"]

MOST_FRAMES = 1_000_000_000
"""Of one batch."""
MOST_PROCESSES = 1_000
"""Of environments that have a process each."""


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
class LivesConfig:
    """What a life is in an environment that counts them, such as those of Atari games."""

    end_at_life_loss: bool = False
    """To learning, the loss of a life ends an episode; returns, and evaluations, are of whole games."""


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


@dataclass(frozen=True)
class TrainConfig(StoppingConfig, RayConfig, CollectionConfig, EnvironmentConfig):
    """What every training run has: its environment, length, seed, evaluation and checkpoints.

    Raises:
        ConfigError: a field has the wrong type or a value that is not allowed.
    """

    seed: int = number(0, at_least=0, at_most=2**63 - 1)
    """Seed of every random stream of the run."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and batches live; environments are always on the CPU."""
    threads: int = number(1, at_least=1, at_most=1024)
    """PyTorch's CPU threads; 1 is fastest for small networks."""
    eval_every: int | None = number(5_000, at_least=1, at_most=MANY)
    """Frames from one evaluation to the next; `none` leaves only the one after training."""
    eval_episodes: int = number(20, at_least=1, at_most=1_000_000)
    """Episodes of an evaluation during training."""
    final_eval_episodes: int = number(100, at_least=1, at_most=1_000_000)
    """Episodes of the evaluation after training."""
    eval_envs: int | None = number(None, at_least=1, at_most=1_000)
    """Environments of an evaluation at most; by default 100, or of custom ones 1 (after training `num_envs`)."""
    eval_stochastic: bool = False
    """Sample actions in the evaluations during training; the one after it is greedy."""
    eval_env_id: str | None = None
    """Evaluate on this environment instead of the one to train on."""
    checkpoint_every: int | None = number(100_000, at_least=1, at_most=MANY)
    """Frames from one checkpoint to the next, from which a run can be resumed; there is always one at the end."""
    log_every: int = number(1, at_least=1, at_most=MANY)
    """Frames from one line of metrics to the next, at least a batch; a line is the mean over its batches."""
    curve_window: int = number(100, at_least=1, at_most=MANY)
    """Episodes in the moving mean of `curve.png`."""
    gif: bool = False
    """Draw an episode of the trained policy into `agent.gif`."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self.num_envs, getattr(self, "rollout_steps", 1), self.backend)
        self._check_collection()
        _check_pixels(self)
        if self.eval_every is None and self.stop_at_return is not None:
            raise ConfigError(
                f"stop_at_return is {self.stop_at_return}, a return of evaluations during training, and eval_every is "
                "none; set eval_every to a number of frames"
            )
        if isinstance(self, OptimizerConfig) and self.cuda_graphs:
            _check_graphs(self.device, self.compile)
        self.validate()

    def _check_collection(self) -> None:
        if self.collector == "local":
            for name, value in (("num_collectors", self.num_collectors > 1), ("asynchronous", self.asynchronous)):
                if value:
                    raise ConfigError(
                        f"{name} is {getattr(self, name)} with collector 'local', which is this process alone; set "
                        "collector to 'processes'"
                    )
        self.check_ray(self.collector)
        check_divisible(self.num_envs, self.num_collectors)
        if self.asynchronous and not self.is_off_policy():
            raise ConfigError(
                "asynchronous is True, with which batches come from older policies; this algorithm learns from its "
                "present one (on-policy), only dqn with replay learns from any"
            )

    def is_off_policy(self) -> bool:
        """Whether it learns from what any policy did; algorithms that do override it."""
        return False

    def validate(self) -> None:
        """Check what concerns several fields at once; algorithms override it."""

    def to_act(self: C) -> C:
        """The same for a pipeline whose policy is all that is used: without what only learning needs."""
        here = dataclasses.replace(self.on_cpu(), collector="local", num_collectors=1, asynchronous=False)
        return dataclasses.replace(here, backend="auto")

    def on_cpu(self: C) -> C:
        """The same config with its networks on the CPU, for what needs no GPU and may be asked where there is none."""
        graphs: dict[str, Any] = {"cuda_graphs": False} if isinstance(self, OptimizerConfig) else {}
        return dataclasses.replace(self, device="cpu", **graphs)

    @property
    def eval_env(self) -> EnvConfig:
        """What evaluations run on."""
        return dataclasses.replace(self.env, env_id=self.eval_env_id or self.env_id)


def config_from_json(cls: type[C], values: Mapping[str, Any]) -> C:
    """Read a config back from its JSON form, `dataclasses.asdict`.

    Raises:
        ConfigError: an unknown or missing field, or a value that is not allowed.
    """
    values = completed(values)
    names = {each.name for each in dataclasses.fields(cls)}
    if wrong := sorted(names ^ set(values)):
        what = "an unknown" if wrong[0] in values else "no"
        raise ConfigError(f"the config has {what} field {wrong[0]!r}")
    read: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return cls(**read)


def check_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a run of one's own, in JSON form.

    Raises:
        ConfigError: there are none, `env_id` or `seed` is missing, or a value is none that JSON knows.
    """
    values = dict(settings or {})
    for name, kind in (("env_id", str), ("seed", int)):
        if type(values.get(name)) is not kind:
            raise ConfigError(
                f"a run of one's own needs settings with env_id (text) and seed (a whole number); {name} is "
                f"{values.get(name)!r}"
            )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings must be JSON values (numbers, text, lists, None): {error}") from error
    return plain


def check_divisible(num_envs: int, collectors: int) -> None:
    """Refuse a number of collectors among which environments cannot be divided.

    Raises:
        ConfigError: it is such a one; says which would do.
    """
    if collectors > num_envs:
        raise ConfigError(
            f"num_collectors is {collectors} with num_envs {num_envs}; each collector needs an environment: allowed "
            f"is at most {num_envs}"
        )
    if num_envs % collectors:
        raise ConfigError(
            f"num_collectors is {collectors}, among which num_envs {num_envs} cannot be divided; with num_envs "
            f"{num_envs // collectors * collectors} or {-(-num_envs // collectors) * collectors} it can"
        )


def _check_pixels(config: TrainConfig) -> None:
    if not config.from_pixels:
        return
    if config.reward_shaping == "balance":
        raise ConfigError("reward_shaping is 'balance', which reads CartPole's own observation; from_pixels hides it")
    if config.normalize_frames is not None:
        raise ConfigError("normalize_frames is given, and the network divides pixels by 255 itself; leave it out")
    # which refuses some backends
    _ = config.env


def _check_graphs(device: str, compiled: bool) -> None:
    if device != "cuda":
        raise ConfigError(f"cuda_graphs is True, which needs device to be 'cuda'; it is {device!r}")
    if compiled:
        raise ConfigError("cuda_graphs is True, which needs compile to be False; choose one of the two")


def _check_sizes(num_envs: int, rollout_steps: int, backend: Backend) -> None:
    if backend == "async" and num_envs > MOST_PROCESSES:
        raise ConfigError(
            f"num_envs is {num_envs}; allowed is at most {MOST_PROCESSES} with backend 'async', which starts a process "
            "for each"
        )
    if num_envs * rollout_steps > MOST_FRAMES:
        raise ConfigError(
            f"rollout_steps is {rollout_steps}; allowed is at most {MOST_FRAMES // num_envs} with num_envs "
            f"{num_envs}, so that a batch has at most {MOST_FRAMES} frames"
        )
