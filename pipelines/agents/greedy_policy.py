"""A run's greedy policy as one function of raw observations, for use without rlpipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Categorical
from torchrl.envs import DoubleToFloat, ObservationNorm, Transform
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError, RlpipeError
from rlpipe.modules import CategoricalActor, GaussianActor
from rlpipe.modules.base import TensorModule, tensor_modules
from rlpipe.pipelines.agents.load import Trained
from rlpipe.pipelines.collectors.evaluation import most_copies
from rlpipe.pipelines.envs import BinObservation
from rlpipe.pipelines.envs.frozen_transforms import per_environment
from rlpipe.pipelines.envs.make import make_env_of_any_size
from rlpipe.pipelines.envs.transforms import Standardize

TOLERANCE = 1e-5
"""How much a Box action may differ, and how much the scores of two Discrete actions in a tie."""
_RANDOM, _STEPS, _ENVS = 256, 64, 4
_WIDEST, _MOST = 10.0, 255


class GreedyPolicy(nn.Module):
    """Maps raw observations `[B, *observation]`, and masks `[B, A]` if there are any, to actions `[B, *action]`.

    Observations and actions are those of the Gymnasium environment: statistics and bins are applied within, Discrete
    actions start where their space does, and Box actions have its type and bounds. The parts are shared with the run's
    policy.

    Raises:
        ConfigError: the policy or a transform of its observation cannot be exported.
    """

    def __init__(self, agent: Trained) -> None:
        super().__init__()
        modules = tensor_modules(agent.policy)
        if modules is None:
            raise ConfigError(f"a policy of kind {type(agent.policy).__name__} cannot be exported")
        self.parts = nn.ModuleList(modules)
        with_raw = make_env_of_any_size(replace(agent.config.env, num_envs=1, backend="auto"))
        try:
            spaces = with_raw.base_env.spaces
            self.masked = "action_mask" in spaces
            action = with_raw.base_env.envs.single_action_space
            self.observation_start = int(getattr(spaces["observation"], "start", 0))
            self.action_start = int(getattr(action, "start", 0))
            self.actions = int(with_raw.action_spec.space.n) if isinstance(with_raw.action_spec, Categorical) else None
            self.cast = _Cast(action) if isinstance(action, Box) else nn.Identity()
            self.spec = with_raw.observation_spec["observation"][0]
        finally:
            with_raw.close()
        self.transforms = nn.ModuleList(_of_observations(agent.transforms, len(self.spec.shape)))

    def forward(self, observation: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """The greedy actions, see the class."""
        if self.observation_start:
            observation = observation - self.observation_start
        for transform in self.transforms:
            observation = transform(observation)
        entries = {"observation": observation}
        if action_mask is not None:
            entries["action_mask"] = action_mask
        for part in cast("Iterable[TensorModule]", self.parts):
            entries.update(zip(part.out_keys, part.compute(*[entries[key] for key in part.in_keys]), strict=True))
        action: Tensor = self.cast(entries["action"])
        return action + self.action_start if self.action_start else action

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Random inputs."""
        if isinstance(self.spec, Categorical):
            start, states = self.observation_start, int(self.spec.space.n)
            observation = torch.randint(start, start + states, (batch,))
        else:
            real = self.spec.dtype.is_floating_point
            low, high = ((each if real else each.long()) for each in (self.spec.space.low, self.spec.space.high))
            # around the allowed number nearest to 0, because bounds may be infinite or huge
            middle, reach = torch.zeros_like(low).clamp(low, high), _WIDEST if real else _MOST
            low, high = (middle - reach).clamp_min(low), (middle + reach).clamp_max(high)
            share = torch.rand(batch, *self.spec.shape, dtype=self.spec.dtype if real else torch.float64)
            steps = (high - low) * share if real else (share * (high - low + 1)).long()
            observation = (low + steps).to(self.spec.dtype)
        if self.actions is None or not self.masked:
            return (observation,)
        return observation, torch.rand(batch, self.actions) < 0.7


def cases(agent: Trained, greedy: GreedyPolicy) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor | None]]:
    """Inputs, random ones and those of real episodes, and the policy's actions for them.

    Yields:
        Inputs of `greedy`; the actions; and the scores of all actions `[B, A]`, if they are Discrete.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        inputs = greedy.example(_RANDOM)
    yield inputs, *_acts(agent, greedy, inputs)
    copies = min(_ENVS, most_copies(agent.config.env, agent.config.eval_envs, agent.config.num_envs))
    env = make_env_of_any_size(replace(agent.config.env, num_envs=copies, backend="auto"), seed=0)
    try:
        step = env.reset()
        for _ in range(_STEPS):
            seen = step["observation"] + greedy.observation_start if greedy.observation_start else step["observation"]
            inputs = (seen, step["action_mask"]) if greedy.masked else (seen,)
            action, scores = _acts(agent, greedy, inputs)
            yield inputs, action, scores
            _, step = env.step_and_maybe_reset(step.set("action", action))
    finally:
        env.close()


def check_action(greedy: GreedyPolicy, action: Tensor, expected: Tensor, scores: Tensor | None) -> float:
    """How far actions are from the expected ones; 0 for a Discrete action that is the same, or tied with it.

    An action is as the environment takes it, an expected one as the policy gives it; scores are of Discrete actions.

    Raises:
        RlpipeError: they are too far.
    """
    start = greedy.action_start
    if scores is None:
        off = TOLERANCE * max(1.0, expected.abs().max().item())
        # as numbers of the space, which may be whole
        least, most, found, exact = (
            each.double()
            for each in (*map(greedy.cast, (expected - off, expected + off)), action, greedy.cast(expected))
        )
        apart = (found - exact).abs().max().item()
        if not ((least <= found) & (found <= most)).all():
            raise RlpipeError(f"what was exported does not act as the policy does: an action is {apart:.1e} off")
        return apart
    expected = expected + start
    index = (action - start).clamp(0, scores.shape[-1] - 1).unsqueeze(-1)
    chosen, best = scores.gather(-1, index), scores.gather(-1, (expected - start).unsqueeze(-1))
    tied = (best - chosen <= TOLERANCE * best.abs().clamp_min(1.0)) & (index.squeeze(-1) + start == action).unsqueeze(
        -1
    )
    if not (tied.squeeze(-1) | (action == expected)).all():
        raise RlpipeError("what was exported does not act as the policy does: it takes another action")
    return 0.0


def tensors(greedy: GreedyPolicy) -> dict[str, Tensor]:
    """Weights, action bounds and the numbers of transforms, by names that do not depend on exploration."""
    actor = greedy.parts[0]
    found = {f"policy.{name}": value for name, value in actor.state_dict().items() if isinstance(value, Tensor)}
    if isinstance(actor, GaussianActor):
        found["action.low"], found["action.high"] = found.pop("policy.low"), found.pop("policy.high")
    for transform in greedy.transforms:
        found |= {f"observation.{name}": value for name, value in transform.named_buffers()}
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


class _Cast(nn.Module):
    """`ActionCast` for the actions of a Box; the identity if they are in the space already."""

    low: Tensor
    high: Tensor
    parts: Tensor

    def __init__(self, space: Box) -> None:
        super().__init__()
        self.dtype = torch.from_numpy(np.zeros(1, space.dtype)).dtype
        self.whole = np.dtype(space.dtype).kind in "iub"
        low, high = (torch.from_numpy(each.astype(np.float64)) for each in (space.low, space.high))
        # the largest float64 that is not above the bound
        below = torch.from_numpy(np.nextafter(high.numpy(), -np.inf))
        limit = 2.0**63 if self.dtype is torch.int64 else 2.0**64
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", torch.where(high >= limit, below, high) if self.whole else high, persistent=False)
        width = (high - low).clamp_min(1.0)
        self.register_buffer("parts", (width + 1) / width, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        if not self.whole:
            same = action.dtype == self.dtype == torch.float32
            return action if same else action.double().clamp(self.low, self.high).to(self.dtype)
        part = ((action.double() - self.low) * self.parts).floor().clamp_min(0.0)
        return (self.low + part).clamp(self.low, self.high).to(self.dtype)


class _Normalize(nn.Module):
    """`ObservationNorm` without branches on values, which cannot be exported."""

    mean: Tensor
    std: Tensor

    def __init__(self, transform: ObservationNorm) -> None:
        super().__init__()
        self.register_buffer("mean", transform.loc.detach().clone())
        self.register_buffer("std", transform.scale.detach().clone())

    def forward(self, observation: Tensor) -> Tensor:
        return (observation - self.mean) / self.std


class _Bins(nn.Module):
    """`BinObservation`."""

    bin_low: Tensor
    bin_width: Tensor
    bin_place: Tensor

    def __init__(self, transform: BinObservation) -> None:
        super().__init__()
        self.bins = transform.bins
        for name in ("low", "width", "place"):
            self.register_buffer(f"bin_{name}", getattr(transform, name).detach().clone())

    def forward(self, observation: Tensor) -> Tensor:
        digits = ((observation.flatten(1) - self.bin_low) / self.bin_width).floor().clamp(0, self.bins - 1)
        return (digits.long() * self.bin_place).sum(-1)


def _of_observations(transforms: tuple[Transform, ...], dims: int) -> list[nn.Module]:
    """The transforms of an observation with `dims` dimensions."""
    made: list[nn.Module] = []
    for transform in transforms:
        if "action" in transform.in_keys_inv and not isinstance(transform, DoubleToFloat):
            raise ConfigError(f"the transform {type(transform).__name__} of the action cannot be exported")
        if "observation" not in transform.in_keys:
            continue
        if type(transform) in (ObservationNorm, Standardize) and _is_plain(transform, dims):
            made.append(_Normalize(transform))
        elif isinstance(transform, BinObservation):
            made.append(_Bins(transform))
        else:
            raise ConfigError(f"the transform {type(transform).__name__} of the observation cannot be exported")
    return made


def _is_plain(transform: ObservationNorm, dims: int) -> bool:
    """Whether it replaces the observation, with one mean and standard deviation for all environments."""
    replaces = list(transform.in_keys) == ["observation"] == list(transform.out_keys)
    return bool(transform.standard_normal) and replaces and not per_environment(transform.loc, transform.scale, dims)


def _acts(agent: Trained, greedy: GreedyPolicy, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """The actions and scores of the policy, computed through its TensorDicts and transforms."""
    entries = dict(zip(("observation", "action_mask"), inputs, strict=False))
    entries["observation"] = entries["observation"] - greedy.observation_start
    step = TensorDict(entries, [len(inputs[0])])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        for transform in agent.transforms:
            if "observation" in transform.in_keys:
                step = transform.clone()(step)
        step = agent.policy(step)
        scores = None
        if greedy.actions is not None:
            scores = step.get("action_value", None)
            actor = cast("CategoricalActor", greedy.parts[0])
            scores = actor.distribution(*actor.read(step)).logits if scores is None else scores
    return step["action"], scores
