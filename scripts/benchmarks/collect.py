"""`rlpipe benchmark collect`: the time of a step of all environments while a stochastic policy collects."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Categorical
from torchrl.envs import EnvBase

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE
from rlpipe.modules import MLP, CategoricalActor, Critic, GaussianActor, encoder
from rlpipe.pipelines.build.collector import make_collector
from rlpipe.pipelines.config.train import TrainConfig
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.seeding import Seeds
from rlpipe.scripts.baselines.sb3 import sb3_rollout
from rlpipe.scripts.baselines.torchrl_parts import StockKind, fastest, stock_actor, stock_collector, stock_env
from rlpipe.scripts.benchmarks.measure import Row, interleave, one_thread, repeated

Rollout = Callable[[], object]

HIDDEN = (64, 64)
SECONDS = 0.15
"""Minimum duration of a repetition: shorter rollouts are repeated within it."""


@dataclass(frozen=True)
class Case:
    """The environments to collect from; with `parallel`, TorchRL's `ParallelEnv` is measured too."""

    env_id: str
    num_envs: int
    parallel: bool = False

    def __str__(self) -> str:
        return f"{self.env_id}, {self.num_envs} environment{'s' * (self.num_envs > 1)}"

    @property
    def steps(self) -> int:
        """Number of steps of each environment in a rollout: about 1024 frames in total, as in recipe `ppo`."""
        return min(max(1024 // self.num_envs, 32), 256)


CASES = (
    Case("CartPole-v1", 1),
    Case("CartPole-v1", 8, parallel=True),
    Case("CartPole-v1", 64),
    Case("CartPole-v1", 256),
    Case("CartPole-v1", 1024),
    Case("InvertedDoublePendulum-v5", 1),
    Case("InvertedDoublePendulum-v5", 8),
    Case("LunarLander-v3", 1),
    Case("LunarLander-v3", 8),
)
MANY = 256
"""With this many environments or more, a rollout of `SLOW` has only `FEW_STEPS` steps."""
FEW_STEPS = 4
SLOW = "torchrl serial"


def run(
    *,
    against: Sequence[str],
    quick: bool,
    seeds: Sequence[int],
    progress: Callable[[str], None],
    cases: Sequence[Case] = CASES,
) -> Iterator[Row]:
    """Measure microseconds per step of all environments together; every arm has the same network.

    With `quick` there are 3 repetitions in place of 9, cases of 256 environments and more have only rlpipe's own arms,
    and there are no processes. `progress` gets a line for environments that are left out.
    """
    missing: set[str] = set()
    for case in cases:
        if case.env_id in missing:
            continue
        try:
            make_env(EnvConfig(case.env_id)).close()
        except ConfigError as error:
            missing.add(case.env_id)
            progress(f"{case.env_id} is left out: {error}")
            continue
        left_out = quick and case.num_envs >= MANY
        # to start eight processes would take longer than everything else
        alike = replace(case, parallel=case.parallel and not quick)
        yield measure(alike, [] if left_out else against, repeats=3 if quick else 9, seed=seeds[0])


def measure(case: Case, against: Sequence[str], *, repeats: int, seed: int, only: Sequence[str] | None = None) -> Row:
    """Measure one case; `only` names the arms to measure, `None` stands for all."""
    few = FEW_STEPS if case.num_envs >= MANY else case.steps
    steps: dict[str, int] = {}
    arms: dict[str, Rollout] = {}
    times: dict[str, int] = {}
    with contextlib.ExitStack() as stack, one_thread():
        for name, rollout in _arms(case, against, few, seed, stack):
            if only is not None and name not in only:
                continue
            times[name] = _times(rollout)
            arms[name] = repeated(rollout, times[name])
            steps[name] = few if name == SLOW else case.steps
        # `_times` has warmed up every arm
        seconds = interleave(arms, repeats=repeats, warmup=0)
    samples = {name: [1e6 * each / (steps[name] * times[name]) for each in values] for name, values in seconds.items()}
    row = Row(f"{case}", "us a vector step", samples, {"num_envs": case.num_envs, "steps": steps, "rollouts": times})
    row.extra["frames_per_second"] = {name: 1e6 * case.num_envs / median for name, median in row.medians.items()}
    if steps.get(SLOW, case.steps) != case.steps:
        row.extra["note"] = f"{case}: {SLOW} in rollouts of {few} steps instead of {case.steps}"
    if not against and only is None and case.num_envs >= MANY:
        row.extra["note"] = f"{case}: without the arms of other libraries, which take long"
    return row


def make_network(env: EnvBase, outputs: int, seed: int) -> nn.Sequential:
    """A network from observation `[*B, ...]` to `[*B, outputs]` with two hidden layers of 64, as in PPO."""
    with Seeds(seed).torch_seeded("initialization"):
        first = encoder(env.observation_spec["observation"], len(env.batch_size))
        return nn.Sequential(first, *MLP(first.features, outputs, HIDDEN, activation="tanh"))


def make_actor(network: nn.Module, env: EnvBase, seed: int) -> CategoricalActor | GaussianActor:
    """The stochastic actor of rlpipe over `network`, which outputs logits, or means and standard deviations."""
    spec, generator = env.action_spec, Seeds(seed).generator("exploration")
    if isinstance(spec, Categorical):
        return CategoricalActor(network, spec, generator)
    return GaussianActor(network, spec, generator, state_dependent_std=True)


def floor_rollout(env: EnvBase, network: nn.Module, steps: int) -> Rollout:
    """The minimum that a collector has to do: `steps` of the vector environment, each with a forward pass."""
    envs = env.base_env.envs
    actions = [envs.action_space.sample() for _ in range(steps)]
    observation, _ = envs.reset()
    last = {"observation": observation}

    def rollout() -> None:
        with torch.inference_mode():
            for action in actions:
                network(torch.from_numpy(last["observation"]))
                last["observation"] = envs.step(action)[0]

    return rollout


def environment_rollout(env: EnvBase, steps: int) -> Rollout:
    """The part of the floor that is the vector environment."""
    envs = env.base_env.envs
    actions = [envs.action_space.sample() for _ in range(steps)]
    envs.reset()

    def rollout() -> None:
        for action in actions:
            envs.step(action)

    return rollout


def network_rollout(env: EnvBase, network: nn.Module, steps: int) -> Rollout:
    """The part of the floor that is the network, on an observation of the vector environment."""
    envs = env.base_env.envs
    envs.reset()
    observation = envs.step(envs.action_space.sample())[0]

    def rollout() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                network(torch.from_numpy(observation))

    return rollout


def lean_rollout(case: Case, seed: int, *, values: bool = False) -> tuple[Rollout, Callable[[], None]]:
    """A function that collects a batch with rlpipe (with `values`, and computes GAE), and one that closes it."""
    env = make_env(EnvConfig(case.env_id, case.num_envs), seed=seed)
    network, frames = make_network(env, _outputs(env), seed), case.num_envs * case.steps
    # enough frames to never end
    config = TrainConfig(env_id=case.env_id, num_envs=case.num_envs, total_frames=2**62 // frames * frames)
    collector = make_collector(config, env, make_actor(network, env, seed), frames)
    batches = iter(collector)
    if not values:
        return functools.partial(next, batches), collector.shutdown
    advantage = GAE(Critic(make_network(collector.env, 1, seed)))
    return lambda: advantage(next(batches)), collector.shutdown


def _arms(
    case: Case, against: Sequence[str], few: int, seed: int, stack: contextlib.ExitStack
) -> Iterator[tuple[str, Rollout]]:
    """Every arm by name, one rollout per call; `stack` closes their environments."""
    rollout, close = lean_rollout(case, seed)
    stack.callback(close)
    yield "rlpipe", rollout
    env = make_env(EnvConfig(case.env_id, case.num_envs), seed=seed)
    network = make_network(env, _outputs(env), seed)
    actor = make_actor(network, env, seed)
    yield "stock collector", _stock_rollout(env, actor, case.num_envs * case.steps, stack)
    if "torchrl" in against:
        for name, kind in _stock_kinds(case).items():
            stock = stock_env(case.env_id, case.num_envs, seed=seed, kind=kind)
            frames = case.num_envs * (few if name == SLOW else case.steps)
            yield name, _stock_rollout(stock, stock_actor(network, stock.action_spec), frames, stack)
    if "sb3" in against:
        valued, close = lean_rollout(case, seed, values=True)
        stack.callback(close)
        # Stable-Baselines3 computes the advantages of a rollout too
        yield "rlpipe, with GAE", valued
        collect, close = sb3_rollout(case.env_id, case.num_envs, steps=case.steps, seed=seed)
        stack.callback(close)
        yield "sb3", collect
    bare = make_env(EnvConfig(case.env_id, case.num_envs), seed=seed)
    stack.callback(bare.close)
    yield "floor", floor_rollout(bare, network, case.steps)
    if case.env_id == "CartPole-v1":
        alone = make_env(EnvConfig(case.env_id, case.num_envs), seed=seed)
        stack.callback(alone.close)
        yield "environment", environment_rollout(alone, case.steps)
        yield "network", network_rollout(alone, network, case.steps)


def _stock_kinds(case: Case) -> dict[str, StockKind]:
    """TorchRL's arms: `torchrl` with its fastest environment, and the others."""
    kinds: dict[str, StockKind] = {"torchrl": fastest(case.num_envs), "torchrl same step": "same step"}
    if case.num_envs > 1:
        kinds[SLOW] = "serial"
    if case.parallel:
        kinds["torchrl parallel"] = "parallel"
    return kinds


def _outputs(env: EnvBase) -> int:
    """Number of outputs of a policy: a logit per action, or a mean and a standard deviation per element."""
    spec = env.action_spec
    return int(spec.space.n) if isinstance(spec, Categorical) else 2 * math.prod(spec.shape[len(env.batch_size) :])


def _stock_rollout(env: EnvBase, policy: TensorDictModule, frames: int, stack: contextlib.ExitStack) -> Rollout:
    collector = stock_collector(env, policy, frames_per_batch=frames)
    stack.callback(collector.shutdown)
    return functools.partial(next, iter(collector))


def _times(rollout: Rollout) -> int:
    """The number of rollouts in a repetition."""
    rollout()
    start = time.perf_counter()
    rollout()
    return math.ceil(SECONDS / (time.perf_counter() - start))
