"""The parts of the TorchRL baseline, all TorchRL's own: environment, networks, collector, loss, target, update.

They are set up as in TorchRL's documentation, with rlpipe's settings in place of differing defaults. Three differences
remain, too small to show in learning curves: PPO normalises advantages by the standard deviation with Bessel's
correction, its diagnostics differ, and REINFORCE has no entropy term.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Categorical, TensorSpec
from torchrl.envs import (
    EnvBase,
    GymEnv,
    GymWrapper,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    DQNLoss,
    HardUpdate,
    LossModule,
    ReinforceLoss,
    SoftUpdate,
    TargetNetUpdater,
)

from rlpipe.modules.networks import Tanh
from rlpipe.pipelines.pipeline import Update

_DISTANCE = {"mse": "l2", "smooth_l1": "smooth_l1"}

StockKind = Literal["single", "vector", "same step", "serial", "parallel"]
"""TorchRL's ways to step environments.

`single` is one `GymEnv`. `vector` and `same step` are `GymWrapper` over Gymnasium's sync vector environment, in the two
autoreset modes that it supports: DISABLED, which it recommends and which is faster, and SAME_STEP. `serial` and
`parallel` are `SerialEnv` and `ParallelEnv` over several `GymEnv`.
"""


def fastest(num_envs: int) -> StockKind:
    """The fastest of TorchRL's environments: `single` for one environment, `vector` for more."""
    return "single" if num_envs == 1 else "vector"


def stock_env(env_id: str, num_envs: int, *, seed: int, kind: StockKind | None = None) -> TransformedEnv:
    """Make TorchRL's own environment, which counts steps and sums rewards; by default of the `fastest` kind.

    Raises:
        ValueError: `kind` is unknown.
    """
    kind = kind or fastest(num_envs)
    if kind not in get_args(StockKind):
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(map(repr, get_args(StockKind)))}")
    base = _base(env_id, num_envs, kind)
    # for `same step`, GymWrapper adds a transform
    env = base if isinstance(base, TransformedEnv) else TransformedEnv(base)
    env.append_transform(StepCounter()).append_transform(RewardSum())
    env.set_seed(seed)
    return env


def _base(env_id: str, num_envs: int, kind: StockKind) -> EnvBase:
    make = partial(GymEnv, env_id, categorical_action_encoding=True)
    if kind == "single":
        return make()
    if kind in ("serial", "parallel"):
        return (SerialEnv if kind == "serial" else ParallelEnv)(num_envs, make)
    mode = AutoresetMode.SAME_STEP if kind == "same step" else AutoresetMode.DISABLED
    envs = gym.make_vec(env_id, num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    return GymWrapper(envs, categorical_action_encoding=True)


def stock_network(network: nn.Module) -> nn.Module:
    """The same layers, with PyTorch's tanh in place of rlpipe's faster one; parameters are shared."""
    if not isinstance(network, nn.Sequential):
        return nn.Tanh() if isinstance(network, Tanh) else network
    return nn.Sequential(*map(stock_network, network))


def stock_actor(network: nn.Module, spec: TensorSpec) -> ProbabilisticActor:
    """A stochastic policy that writes `action` and `action_log_prob`.

    The outputs of `network` are logits `[*B, A]` for Discrete actions, as TorchRL's `Categorical`, or means and
    standard deviations `[*B, 2 D]` for a bounded Box of vectors.
    """
    network = stock_network(network)
    if isinstance(spec, Categorical):
        module = TensorDictModule(network, in_keys=["observation"], out_keys=["logits"])
        return ProbabilisticActor(
            module,
            spec=spec,
            in_keys=["logits"],
            distribution_class=torch.distributions.Categorical,
            distribution_kwargs={"validate_args": False},
            return_log_prob=True,
        )
    low, high = (bound.reshape(-1, spec.shape[-1])[0] for bound in (spec.space.low, spec.space.high))
    extractor = nn.Sequential(network, NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(extractor, in_keys=["observation"], out_keys=["loc", "scale"]),
        spec=spec,
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": low, "high": high},
        return_log_prob=True,
    )


def stock_q_actor(network: nn.Module, spec: TensorSpec) -> QValueActor:
    """The greedy policy of a Q network with outputs `[*B, A]`; `spec` is that of one Discrete action, unbatched."""
    return QValueActor(stock_network(network), in_keys=["observation"], spec=spec, action_space="categorical")


def stock_critic(network: nn.Module) -> ValueOperator:
    """A state value `[*B, 1]` from `network`."""
    return ValueOperator(stock_network(network), in_keys=["observation"])


def stock_collector(
    env: EnvBase,
    policy: TensorDictModuleBase,
    *,
    frames_per_batch: int,
    total_frames: int = -1,
    init_random_frames: int | None = None,
) -> Collector:
    """TorchRL's collector over `env`, which its `shutdown` closes: batches `[num_envs, T]`, or `[T]` for one `GymEnv`.

    It starts with `init_random_frames` frames of uniformly random actions, and ends after `total_frames`; -1 for never.
    """
    return Collector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        init_random_frames=init_random_frames,
        auto_register_policy_transforms=False,
        # unused, and 7 % of a step
        track_traj_ids=False,
    )


def stock_loss(
    algorithm: str, config: Any, actor: TensorDictModuleBase, critic: TensorDictModuleBase | None = None
) -> LossModule:
    """TorchRL's loss of an algorithm, with a Config's coefficients.

    DQN takes a `stock_q_actor`, the other algorithms a `stock_actor` and a `stock_critic`.
    """
    if algorithm == "dqn":
        loss = DQNLoss(actor, loss_function=_DISTANCE[config.kind], delay_value=True, double_dqn=config.double)
        loss.make_value_estimator(gamma=config.gamma)
        return loss
    distance = _DISTANCE[config.value_kind]
    if algorithm == "reinforce":
        return ReinforceLoss(actor, critic, loss_critic_type=distance)
    coefficients = {"entropy_coeff": config.entropy_coefficient, "critic_coeff": config.value_coefficient}
    if algorithm == "a2c":
        return A2CLoss(actor, critic, loss_critic_type=distance, **coefficients)
    return ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=config.clip,
        clip_value=config.value_clip,
        loss_critic_type=distance,
        normalize_advantage=config.normalize_advantage,
        **coefficients,
    )


def stock_target(loss: DQNLoss, config: Any) -> TargetNetUpdater:
    """The update of a DQN loss's target network, with a Config's `tau` and `target_every`."""
    if config.tau < 1.0:
        return SoftUpdate(loss, tau=config.tau)
    # TorchRL's counter starts at 0 and passes n before it copies: a period of n + 1
    return HardUpdate(loss, value_network_update_interval=config.target_every - 1)


def stock_update(
    loss: LossModule,
    optimizer: torch.optim.Optimizer,
    *,
    max_norm: float | None,
    target: TargetNetUpdater | None = None,
) -> Update:
    """One update as in TorchRL's own scripts: forward, backward, clip to `max_norm`, optimiser, target network."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def update(minibatch: TensorDictBase) -> TensorDictBase:
        terms = loss(minibatch)
        total = sum(value for key, value in terms.items() if key.startswith("loss"))
        total.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        optimizer.zero_grad()
        if target is not None:
            target.step()
        return terms.detach()

    return update
