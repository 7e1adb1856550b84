"""From a Config's shared fields to the parts they describe."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from torchrl.collectors import BaseCollector
from torchrl.data import Bounded, Categorical
from torchrl.envs import EnvBase, ObservationNorm, Transform, TransformedEnv

from rlpipe.errors import ConfigError
from rlpipe.modules import (
    CNN,
    MLP,
    CategoricalActor,
    Critic,
    EpsilonGreedy,
    Flatten,
    GaussianActor,
    OneHot,
    Shared,
    encoder,
    make_schedule,
)
from rlpipe.modules.images import image_scale, is_image
from rlpipe.pipelines.camera import check_drawable
from rlpipe.pipelines.checkpoint import load_checkpoint
from rlpipe.pipelines.collector import SyncDataCollector
from rlpipe.pipelines.config import (
    ActorConfig,
    ExplorationConfig,
    LivesConfig,
    NetworkConfig,
    OptimizerConfig,
    TrainConfig,
)
from rlpipe.pipelines.envs import EnvConfig, ShapeReward, env_spec, make_env
from rlpipe.pipelines.envs.shaping import make_shaping
from rlpipe.pipelines.envs.transforms import Standardize, Statistics
from rlpipe.pipelines.fleet import shares
from rlpipe.pipelines.memory import check_memory, transition_bytes
from rlpipe.pipelines.pipeline import Pipeline, Update
from rlpipe.pipelines.processes import AsyncProcesses, SyncProcesses
from rlpipe.pipelines.seeding import GlobalRandom, Seeds

_LEAST_STEPS = 10
"""Random steps of each environment from which observation statistics are worth having."""
Spaces = tuple[gym.Space[Any], gym.Space[Any]]
"""Of observations and of actions."""
_STILL, _SMALL = 1e-3, 1e-6
"""A feature with a smaller standard deviation is constant: as a share of its size, and at most."""
_OFF = 1e-4
"""Standard deviations by which float32 may be off the mean."""
_COPIES = 4
"""Of a network's weights while it learns: themselves, their gradient, and the two moments of Adam."""


def check_device(config: TrainConfig) -> torch.device:
    """The device of a config; of several GPUs the one that PyTorch takes first.

    Raises:
        ConfigError: CUDA was asked for and there is none, or it does not work.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu, or for a run that was trained "
            "on one a machine that has one"
        )
    try:
        # with its number, because 'cuda' and 'cuda:0' are not equal
        return torch.device("cuda", torch.cuda.current_device())
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"device is 'cuda', and the CUDA device here does not work: {reason}") from error


def make_training_env(config: TrainConfig, seeds: Seeds, last: Sequence[Transform] = ()) -> TransformedEnv:
    """The environment to train in, with the transforms that the config asks for.

    Args:
        config: which environment, shaping and normalisation.
        seeds: of the run.
        last: an algorithm's own transforms, after these.

    Raises:
        ConfigError: the environment cannot be had, or a transform does not fit it.
    """
    if config.reward_shaping == "balance" and "CartPole" not in str(env_spec(config.env_id).entry_point):
        raise ConfigError(f"reward_shaping is 'balance', which is made for CartPole; env_id is {config.env_id!r}")
    if config.from_pixels:
        with _naming("env_id", config.env_id):
            check_drawable(config.env, "--from-pixels")
    spaces_elsewhere = _eval_spaces(config)
    transforms: list[Transform] = []
    shaping = make_shaping(config.reward_shaping, config.shaping_steps)
    if shaping is not None:
        transforms.append(ShapeReward(shaping))
    if config.normalize_frames is not None:
        transforms.append(observation_norm(config.env, config.normalize_frames, seeds))
    with _naming("env_id", config.env_id):
        # with others in other processes, this one is there for its specs and transforms
        here = replace(config.env, num_envs=config.num_envs // config.num_collectors)
        env = make_env(here, seed=seeds.integer("environments"), transforms=[*transforms, *last])
    try:
        _check_eval_env(config, env, spaces_elsewhere)
    except ConfigError:
        env.close()
        raise
    return env


@contextlib.contextmanager
def _naming(field: str, env_id: str) -> Iterator[None]:
    """Put the environment's id before an error that knows nothing of it, such as that of a kind of space."""
    try:
        yield
    except ConfigError as error:
        if env_id in str(error):
            raise
        raise ConfigError(f"{field} is {env_id!r}: {error}") from error


def _eval_spaces(config: TrainConfig) -> Spaces | None:
    """The spaces of the evaluation environment, if it is another one; looked at before there are any to train in."""
    if config.eval_env_id is None:
        return None
    with _naming("eval_env_id", config.eval_env_id), GlobalRandom().kept():
        if config.from_pixels:
            check_drawable(config.eval_env, "--from-pixels")
        return _spaces_of(make_env(replace(config.eval_env, num_envs=1, backend="auto")), close=True)


def _spaces_of(env: TransformedEnv, *, close: bool = False) -> Spaces:
    envs = env.base_env.envs
    if close:
        env.close()
    return envs.single_observation_space, envs.single_action_space


def _check_eval_env(config: TrainConfig, env: TransformedEnv, elsewhere: Spaces | None) -> None:
    """Refuse an evaluation environment that the policy does not fit."""
    here = _spaces_of(env)
    if elsewhere is not None and elsewhere != here:
        raise ConfigError(
            f"eval_env_id is {config.eval_env_id!r}, whose spaces are not those of {config.env_id!r}; observations and "
            f"actions there are {elsewhere[0]} and {elsewhere[1]}, here {here[0]} and {here[1]}; "
            "--eval-env-id none evaluates where it trains"
        )


def observation_norm(config: EnvConfig, frames: int, seeds: Seeds) -> ObservationNorm:
    """TorchRL's `ObservationNorm`, by the mean and standard deviation of random frames; it never changes afterwards.

    Of observations that are no floats, or so far from 0 that float32 has not their mean, it is a `Standardize`.

    Raises:
        ConfigError: the observation is no Box, or an image, or the frames are too few.
    """
    least = _LEAST_STEPS * config.num_envs
    if frames < least:
        raise ConfigError(f"normalize_frames is {frames}; allowed is {least} or more, {_LEAST_STEPS} an environment")
    with GlobalRandom().kept(seeds.integer("normalization")):
        seen = _random_observations(config, frames, seeds)
    mean, std = seen.double().mean(0), seen.double().std(0)
    # a feature that never moved has nothing to be divided by, and one that did by its last digits is no better
    std = torch.where(std > (_STILL * seen.double().abs().amax(0)).clamp_max(_SMALL), std, 1.0)
    moved_by_float32 = (mean.float().double() - mean).abs() > _OFF * std
    if seen.dtype not in (torch.float32, torch.float64) or moved_by_float32.any():
        return Standardize(mean, std)
    return ObservationNorm(mean.float(), std.float(), in_keys=["observation"], standard_normal=True)


def _random_observations(config: EnvConfig, frames: int, seeds: Seeds) -> Tensor:
    env = make_env(config, seed=seeds.integer("normalization"))
    spec = env.observation_spec["observation"]
    try:
        if not isinstance(spec, Bounded):
            raise ConfigError(f"normalize_frames needs a Box observation, and {config.env_id!r} has none")
        if not spec.dtype.is_floating_point and is_image(spec, spec.shape[1:], CNN.least):
            raise ConfigError(f"normalize_frames is given, and {config.env_id!r} has images, which the network divides")
        with seeds.torch_seeded("normalization"):
            rollout = env.rollout(-(-frames // config.num_envs), break_when_any_done=False)
        seen: Tensor = rollout.get("observation").transpose(0, 1).flatten(0, 1)[:frames]
        return seen
    finally:
        env.close()


def is_masked(env: EnvBase) -> bool:
    """Whether the environment says which actions are allowed."""
    return "action_mask" in env.observation_spec.keys()  # noqa: SIM118 - a Composite is no Mapping


def make_trunk(config: NetworkConfig, env: EnvBase, *, shared: bool = False) -> nn.Sequential:
    """Observation `[*B, ...]` to the features of the last hidden layer, `[*B, config.hidden[-1]]`.

    Images (see `CNN`) of 36 pixels a side or more go through the convolutions of the DQN papers before the hidden
    layers; with `hidden` of 512 that is the papers' network. Smaller ones of bytes are divided as well, and flattened.

    Args:
        config: of the network.
        env: whose observations it takes.
        shared: by several networks; of an image, a loss then computes the features once.

    Raises:
        ConfigError: `observation_scale` does not fit the observation.
    """
    first = _make_first(config, env)
    sizes = (first.features, *config.hidden)
    weights = sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))
    weights += sum(each.numel() for each in first.parameters())
    bytes_needed = weights * _COPIES * torch.get_default_dtype().itemsize
    check_memory(f"hidden has {weights:,} weights, which to learn take", bytes_needed, torch.device("cpu"))
    layers = MLP(
        first.features,
        None,
        config.hidden,
        activation=config.activation,
        initialization=config.initialization,
        layer_norm=config.layer_norm,
    )
    if shared and isinstance(first, CNN):
        return nn.Sequential(Shared(first, *layers))
    return nn.Sequential(first, *layers)


def _make_first(config: NetworkConfig, env: EnvBase) -> CNN | Flatten | OneHot:
    """The layers before the hidden ones."""
    spec, dims = env.observation_spec["observation"], len(env.batch_size)
    shape, scale = spec.shape[dims:], config.observation_scale
    if is_image(spec, shape, CNN.least):
        divisor = image_scale(spec)
        if scale is not None:
            raise ConfigError(
                f"observation_scale is given, and the observation is an image, {list(shape)}, which the network "
                f"divides by {divisor:g} itself; --observation-scale none leaves it at that"
            )
        return CNN(shape, config.initialization, divisor)
    if scale is None and spec.dtype is torch.uint8 and len(shape) > 1 and image_scale(spec) > 1:
        # an image too small for the convolutions
        scale = (image_scale(spec),) * shape.numel()
    try:
        return encoder(spec, dims, scale)
    except ValueError as error:
        raise ConfigError(f"observation_{error}") from error


def make_actor(
    config: ActorConfig, env: EnvBase, trunk: nn.Sequential, generator: torch.Generator
) -> CategoricalActor | GaussianActor:
    """The stochastic policy that the environment's actions call for.

    Raises:
        ConfigError: actions of no numbers.
    """
    spec = env.action_spec
    discrete = isinstance(spec, Categorical)
    outputs = int(spec.space.n) if discrete else math.prod(spec.shape[len(env.batch_size) :])
    if not discrete and config.state_dependent_std:
        outputs *= 2
    head = MLP(config.hidden[-1], outputs, (), initialization=config.initialization, gain=0.01)
    network = nn.Sequential(*trunk, *head)
    try:
        if discrete:
            return CategoricalActor(network, spec, generator, masked=is_masked(env))
        return GaussianActor(
            network, spec, generator, batch_dims=len(env.batch_size), state_dependent_std=config.state_dependent_std
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_explorer(config: ExplorationConfig, env: EnvBase, generator: torch.Generator) -> EpsilonGreedy:
    """Epsilon-greedy exploration by the config's schedule."""
    start, end, over = config.epsilon_start, config.epsilon_end, config.epsilon_frames
    schedule = make_schedule(config.epsilon_schedule, start, end, frames=over, factor=config.epsilon_factor)
    return EpsilonGreedy(env.action_spec, schedule, generator, is_masked(env))


def make_critic(config: NetworkConfig, trunk: nn.Sequential) -> Critic:
    """A state value on top of `trunk`."""
    return Critic(nn.Sequential(*trunk, *MLP(config.hidden[-1], 1, (), initialization=config.initialization)))


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], batches: int, frames_per_batch: int
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """The optimiser, and the schedule that steps once a collected batch.

    Args:
        config: which, and how fast.
        parameters: to learn.
        batches: collected batches in the whole run, where a falling learning rate reaches 0.
        frames_per_batch: frames of each.
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    optimizer = kind(parameters, lr=config.lr, eps=config.adam_eps, amsgrad=config.amsgrad, fused=True)
    if config.lr_schedule == "linear":
        return optimizer, _Falling(optimizer, lambda batch: max(0.0, 1 - batch / batches))
    if config.lr_schedule == "cosine":
        return optimizer, _Falling(optimizer, lambda batch: (1 + math.cos(math.pi * min(1.0, batch / batches))) / 2)
    if config.lr_schedule == "steps":
        return optimizer, StepLR(optimizer, max(1, config.lr_every // frames_per_batch), config.lr_factor)
    return optimizer, None


class _Falling(LambdaLR):
    """A learning rate in closed form; a run that goes on to more frames goes on with the rate that these give."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, after the optimiser has done so."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)


def scheduled(learn: Update, optimizer: torch.optim.Optimizer, schedule: LRScheduler | None) -> Update:
    """`learn`, with a step of the learning rate's schedule after each batch with updates; adds the `learning_rate`."""

    def learn_and_step(batch: TensorDictBase) -> TensorDictBase:
        scalars = learn(batch).set("learning_rate", torch.tensor(optimizer.param_groups[0]["lr"]))
        if schedule is not None and scalars.get("updates"):
            schedule.step()
        return scalars

    return learn_and_step


def make_lives(config: LivesConfig, env: EnvBase) -> Update:
    """From a collected batch `[num_envs, T]` to the one to learn from, as the config has it.

    With `end_at_life_loss` that is a copy in which a step that costs a life, but not the last, is `terminated`: Mnih et
    al. 2015, Methods. Nothing is reset there: the game goes on.

    Raises:
        ConfigError: lives are asked for, and the environment counts none.
    """
    if not config.end_at_life_loss:
        return lambda batch: batch
    if "lives" not in env.observation_spec.keys():  # noqa: SIM118 - a Composite is no Mapping
        drawn = isinstance(config, TrainConfig) and config.from_pixels
        raise ConfigError(
            "end_at_life_loss is True, which needs an environment that counts lives, such as ALE/Breakout-v5; this one "
            f"{'is seen from pixels, which hide them' if drawn else 'does not'}; --no-end-at-life-loss leaves it out"
        )

    def end_at_life_loss(batch: TensorDictBase) -> TensorDictBase:
        after = batch.get("next").copy()
        left = after.get("lives")
        lost = ((left < batch.get("lives")) & (left > 0)).unsqueeze(-1)
        for key in ("terminated", "done"):
            after.set(key, after.get(key) | lost)
        return batch.copy().set("next", after)

    return end_at_life_loss


def make_state(policy: nn.Module, env: TransformedEnv, seeds: Seeds, **parts: Any) -> dict[str, Any]:
    """What a checkpoint holds: the policy, the random streams, the observation statistics if any, and `parts`.

    Parts that are `None` are left out.
    """
    state = {"policy": policy, "random": seeds, **parts}
    statistics = Statistics(each for each in env.transform if isinstance(each, ObservationNorm))
    if len(statistics):
        state["observation_norm"] = statistics
    return {name: part for name, part in state.items() if part is not None}


def load_weights(checkpoint: Path, pipeline: Pipeline) -> None:
    """Take over what another run has learned: networks, tables, observation statistics.

    Its optimiser, random streams and counters are left; exploration begins anew.

    Raises:
        CheckpointError: the checkpoint is damaged, or of other networks.
    """
    load_checkpoint(checkpoint, pipeline.state, ({"policy", "loss"} & set(pipeline.state)) | pipeline.statistics())
    for module in pipeline.policy.modules():
        if isinstance(module, EpsilonGreedy):
            module.frames = module.episodes = 0


def make_collector(
    config: TrainConfig, env: TransformedEnv, policy: TensorDictModuleBase, frames_per_batch: int
) -> BaseCollector:
    """A collector over `env`, or over others like it, as the config says; `total_frames` in whole batches.

    Raises:
        ConfigError: a batch does not fit into memory, or a collector cannot be started.
    """
    steps = f"rollout_steps is {frames_per_batch // config.num_envs} with num_envs {config.num_envs}"
    both = [*env.observation_spec.keys(True, True), *env.done_spec.keys(True, True)]
    size = frames_per_batch * (2 * transition_bytes(env, both) + transition_bytes(env, ["action", "reward"]))
    where = check_device(config)
    check_memory(f"{steps}, a batch of which takes", size, where)
    total_frames = -(-config.total_frames // frames_per_batch) * frames_per_batch
    if config.collector != "local":
        return _make_fleet(config, env, policy, frames_per_batch, total_frames)
    device = {} if where.type == "cpu" else {"policy_device": where, "env_device": "cpu", "storing_device": where}
    return SyncDataCollector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        auto_register_policy_transforms=False,
        track_traj_ids=False,
        use_buffers=False,
        trust_policy=True,
        **device,
    )


def _make_fleet(
    config: TrainConfig, env: TransformedEnv, policy: TensorDictModuleBase, frames_per_batch: int, total_frames: int
) -> BaseCollector:
    elsewhere: dict[str, Any] = {}
    if config.collector == "ray":
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('collector is "ray", which needs Ray; install it with: pip install "rlpipe[ray]"')
        from rlpipe.pipelines.ray_collector import AsyncRay, SyncRay  # noqa: PLC0415 - an extra
        from rlpipe.pipelines.ray_places import Resources  # noqa: PLC0415 - an extra

        kind: Any = AsyncRay if config.asynchronous else SyncRay
        resources = Resources(config.ray_cpus, config.ray_gpus, config.ray_memory)
        elsewhere = {"address": config.ray_address, "resources": resources}
    else:
        kind = AsyncProcesses if config.asynchronous else SyncProcesses
    makers = shares(config.env, env, config.num_collectors)
    # of a simulator there may be no room for more copies than were asked for
    env.close()
    fleet: BaseCollector = kind(
        makers,
        policy,
        **elsewhere,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        transforms=env.transform,
        seed=Seeds(config.seed).integer("process"),
        device=config.device,
        threads=config.threads,
    )
    return fleet
