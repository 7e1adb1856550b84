"""`rlpipe benchmark update`: the time of a whole update, from a minibatch to new weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Categorical

from rlpipe.kinds import Execution
from rlpipe.losses import A2CLoss, ClipPPOLoss, DQNLoss, ReinforceLoss, TargetUpdate, frozen_copy
from rlpipe.modules import MLP, CategoricalActor, Critic, QActor
from rlpipe.pipelines.algorithms.configs import a2c, dqn, ppo, reinforce
from rlpipe.pipelines.build.optimizer import make_optimizer
from rlpipe.pipelines.seeding import Seeds
from rlpipe.pipelines.updates.update import gradient_step
from rlpipe.scripts.baselines.sb3 import sb3_ppo_update
from rlpipe.scripts.baselines.torchrl_parts import (
    stock_actor,
    stock_critic,
    stock_loss,
    stock_q_actor,
    stock_target,
    stock_update,
)
from rlpipe.scripts.benchmarks import update_continuous
from rlpipe.scripts.benchmarks.measure import Row, interleave, repeated

MINIBATCHES = (64, 256, 2048)
OBSERVATIONS, ACTIONS, HIDDEN = 4, 2, (64, 64)
EAGER = "rlpipe, eager"
"""rlpipe's update with its gradient computed by autograd every time; the difference is the gain of recording."""
_WARM = 3
"""Number of untimed repetitions: an update is recorded and optimised in its first 10 to 20 calls."""
_LIKE: dict[str, Any] = {"lr": 1e-3, "lr_schedule": "constant", "hidden": HIDDEN}
_ACTOR_CRITIC: dict[str, Any] = {**_LIKE, "entropy_coefficient": 0.01, "max_grad_norm": 0.5}
CONFIGS: dict[str, Any] = {
    "dqn": dqn.Config(**_LIKE, layer_norm=False, n_steps=1),
    # TorchRL's needs a critic, without a loss coefficient, and has no entropy term
    "reinforce": reinforce.Config(
        **{**_ACTOR_CRITIC, "entropy_coefficient": 0.0}, baseline=True, normalize="none", value_coefficient=1.0
    ),
    # TorchRL's does not normalise advantages in its loss
    "a2c": a2c.Config(**_ACTOR_CRITIC, normalize_advantage=False, value_coefficient=0.5),
    "ppo": ppo.Config(**_ACTOR_CRITIC),
}
"""The settings of all arms of an algorithm; those not named here are its defaults."""


@dataclass(frozen=True)
class Arm:
    """One implementation: `call` makes all updates of a repetition, on the Q network or on policy and critic."""

    call: Callable[[], object]
    networks: tuple[nn.Module, ...]


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    minibatches: Sequence[int] = MINIBATCHES,
    **_: Any,
) -> Iterator[Row]:
    """Measure milliseconds per update on one given minibatch; every arm does the same work.

    Of those, Stable-Baselines3 is compared with for PPO alone; then come SAC and TD3, see `update_continuous`. With
    `quick` there are 5 repetitions in place of 15.
    """
    repeats, updates = (5, 10) if quick else (15, 30)
    for algorithm, config in CONFIGS.items():
        for size in minibatches:
            made = arms(algorithm, config, size, against=against, seed=seeds[0], updates=updates)
            seconds = interleave({name: arm.call for name, arm in made.items()}, repeats=repeats, warmup=_WARM)
            samples = {name: [1e3 * each / updates for each in values] for name, values in seconds.items()}
            extra = {"algorithm": algorithm, "minibatch": size, "updates": updates}
            yield Row(f"{algorithm}, minibatch {size}", "ms an update", samples, extra)
    yield from update_continuous.run(against=against, seed=seeds[0], repeats=repeats, updates=updates)


def arms(
    algorithm: str, config: Any, size: int, *, against: Sequence[str], seed: int, updates: int = 1
) -> dict[str, Arm]:
    """Every arm by name, with `updates` updates in one call; all start from the same weights and minibatch.

    Raises:
        ConfigError: `sb3` is in `against` and not installed.
    """
    makers: dict[str, Callable[..., Callable[[], object]]] = {
        "rlpipe": _ours,
        EAGER: functools.partial(_ours, execution="eager"),
        **({"torchrl": _stock} if "torchrl" in against else {}),
        "plain": _plain,
    }
    made = {}
    for name, make in makers.items():
        networks, minibatch = make_networks(algorithm, seed), make_minibatch(algorithm, size, seed)
        made[name] = Arm(repeated(make(algorithm, config, networks, minibatch), updates), networks)
    if "sb3" in against and algorithm == "ppo":
        minibatch, (actor, critic) = make_minibatch(algorithm, size, seed), make_networks(algorithm, seed)
        train, policy = sb3_ppo_update(minibatch, actor, critic, config=config, updates=updates)
        made["sb3"] = Arm(train, (policy,))
    return made


def make_networks(algorithm: str, seed: int) -> tuple[nn.Sequential, ...]:
    """The Q network, or the networks of policy and critic."""
    with Seeds(seed).torch_seeded("initialization"):
        if algorithm == "dqn":
            return (MLP(OBSERVATIONS, ACTIONS, HIDDEN, activation="relu"),)
        return tuple(MLP(OBSERVATIONS, outputs, HIDDEN, activation="tanh") for outputs in (ACTIONS, 1))


def make_minibatch(algorithm: str, size: int, seed: int) -> TensorDict:
    """Random values `[size]` for all inputs of the algorithm's update."""
    with Seeds(seed).torch_seeded("minibatch"):
        shared = {"observation": torch.randn(size, OBSERVATIONS), "action": torch.randint(ACTIONS, (size,))}
        if algorithm == "dqn":
            ended = torch.rand(size, 1) < 0.1
            after = {"observation": torch.randn(size, OBSERVATIONS), "reward": torch.randn(size, 1)}
            return TensorDict({**shared, "next": {**after, "terminated": ended, "done": ended}}).auto_batch_size_(1)
        chosen = {"action_log_prob": torch.rand(size).add(0.5).div(2.0).log()}
        judged = {"advantage": torch.randn(size, 1), "value_target": torch.randn(size, 1)}
        return TensorDict({**shared, **chosen, **judged}).auto_batch_size_(1)


def _ours(
    algorithm: str,
    config: Any,
    networks: tuple[nn.Sequential, ...],
    minibatch: TensorDict,
    execution: Execution = "recorded",
) -> Callable[[], object]:
    spec, after = Categorical(ACTIONS), []
    loss: nn.Module
    if algorithm == "dqn":
        dqn_loss = DQNLoss(QActor(networks[0], spec), gamma=config.gamma, kind=config.kind, double=config.double)
        assert dqn_loss.target_network is not None
        after = [TargetUpdate(dqn_loss.q_network, dqn_loss.target_network, tau=config.tau, every=config.target_every)]
        loss = dqn_loss
    else:
        loss = _our_policy_loss(algorithm, config, CategoricalActor(networks[0], spec), Critic(networks[1]))
    learned = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    optimizer, _ = make_optimizer(config, learned, 1, 1)
    update = gradient_step(loss, optimizer, max_norm=config.max_grad_norm, after=after, execution=execution)
    return lambda: update(minibatch)


def _our_policy_loss(algorithm: str, config: Any, actor: CategoricalActor, critic: Critic) -> nn.Module:
    shared = {
        "value_kind": config.value_kind,
        "value_coefficient": config.value_coefficient,
        "entropy_coefficient": config.entropy_coefficient,
    }
    if algorithm == "reinforce":
        return ReinforceLoss(actor, critic, normalize=config.normalize, **shared)
    if algorithm == "a2c":
        return A2CLoss(actor, critic, normalize_advantage=config.normalize_advantage, **shared)
    return ClipPPOLoss(actor, critic, clip=config.clip, normalize_advantage=config.normalize_advantage, **shared)


def _stock(
    algorithm: str, config: Any, networks: tuple[nn.Sequential, ...], minibatch: TensorDict
) -> Callable[[], object]:
    spec, target = Categorical(ACTIONS), None
    if algorithm == "dqn":
        loss = stock_loss(algorithm, config, stock_q_actor(networks[0], spec))
        target = stock_target(loss, config)
    else:
        loss = stock_loss(algorithm, config, stock_actor(networks[0], spec), stock_critic(networks[1]))
    optimizer, _ = make_optimizer(config, loss.parameters(), 1, 1)
    update = stock_update(loss, optimizer, max_norm=config.max_grad_norm, target=target)
    return lambda: update(minibatch)


def _plain(
    algorithm: str, config: Any, networks: tuple[nn.Sequential, ...], minibatch: TensorDict
) -> Callable[[], object]:
    """Plain PyTorch: no TensorDict, no checks, no diagnostics."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, eps=config.adam_eps, fused=True)
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    if algorithm == "dqn":
        target = frozen_copy(networks[0])
        sources, targets = list(parameters), list(target.parameters())
        loss = _plain_q_loss(config, networks[0], target, minibatch)
    else:
        actor, critic = networks
        loss = _plain_policy_loss(algorithm, config, actor, critic, minibatch)

    def update() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm, foreach=True)
        optimizer.step()
        if targets:
            with torch.no_grad():
                torch._foreach_lerp_(targets, sources, config.tau)

    return update


def _plain_q_loss(config: Any, network: nn.Module, target: nn.Module, minibatch: TensorDict) -> Callable[[], Tensor]:
    observation, action = minibatch["observation"], minibatch["action"].unsqueeze(-1)
    after, reward, terminated = (minibatch["next", key] for key in ("observation", "reward", "terminated"))

    def loss() -> Tensor:
        with torch.no_grad():
            value = target(after)
            best = (network(after) if config.double else value).argmax(-1, keepdim=True)
            goal = reward + config.gamma * ~terminated * value.gather(-1, best)
        chosen = network(observation).gather(-1, action)
        return F.smooth_l1_loss(chosen, goal) if config.kind == "smooth_l1" else F.mse_loss(chosen, goal)

    return loss


def _plain_policy_loss(
    algorithm: str, config: Any, actor: nn.Module, critic: nn.Module, minibatch: TensorDict
) -> Callable[[], Tensor]:
    observation, action = minibatch["observation"], minibatch["action"].unsqueeze(-1)
    old_log_prob, weight, goal = (minibatch[key] for key in ("action_log_prob", "advantage", "value_target"))

    def loss() -> Tensor:
        log_probs = actor(observation).log_softmax(-1)
        log_prob, advantage = log_probs.gather(-1, action).squeeze(-1), weight.squeeze(-1)
        if algorithm == "ppo":
            if config.normalize_advantage:
                advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
            ratio = (log_prob - old_log_prob).exp()
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            total = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        else:
            total = -(log_prob * advantage).mean()
        total = total + config.value_coefficient * F.mse_loss(critic(observation), goal)
        if config.entropy_coefficient:
            entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
            total = total - config.entropy_coefficient * entropy
        return total

    return loss
