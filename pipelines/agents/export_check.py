"""Whether what was exported acts as the policy does: inputs to try, and how far actions may differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import RlpipeError
from rlpipe.modules import Categorical
from rlpipe.modules.choices import Bernoulli, MultiCategorical
from rlpipe.modules.policies import JointDistribution
from rlpipe.modules.recurrent import after
from rlpipe.pipelines.agents.greedy_policy import GreedyPolicy
from rlpipe.pipelines.agents.predict import AnyPolicy
from rlpipe.pipelines.collectors.evaluation import most_copies
from rlpipe.pipelines.envs.make import make_env_of_any_size

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent

TOLERANCE = 1e-5
"""How much a Box action may differ, and how much the scores of two choices in a tie."""
_RANDOM, _STEPS, _ENVS = 256, 64, 4


class Case:
    """Inputs of a `GreedyPolicy`, and what the policy does with them, computed through its TensorDicts and transforms.

    Args:
        inputs: `[B, *entry]` each.
    """

    def __init__(self, agent: Agent, greedy: GreedyPolicy, inputs: tuple[Tensor, ...]) -> None:
        self.inputs, self._greedy = inputs, greedy
        self.states: tuple[Tensor, ...] = ()
        """After the step, as they were given to `check`."""
        self._actor = greedy.actor
        decide = AnyPolicy(agent, greedy.keys).decide
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            self._step = decide(greedy.entries(inputs))
            values = self._step.get("action_value", None)
            if values is not None:
                self._scores = [values]
            elif hasattr(self._actor, "get_dist"):
                self._scores = _scores(self._actor.get_dist(self._step))
            else:
                self._scores = [None] * len(greedy.action_keys)

    @property
    def actions(self) -> TensorDictBase:
        """What the policy does, by `action_keys`."""
        return self._step.select(*self._greedy.action_keys)

    def check(self, given: Any, rows: slice = slice(None)) -> float:
        """How far actions for these rows are from the policy's; 0 for a choice that is the same, or tied with it.

        `given` are as the environment takes them, and the policy's as it gives them; and states, if it remembers.

        Raises:
            RlpipeError: they are too far.
        """
        each = given if isinstance(given, (tuple, list)) else (given,)
        apart, greedy = 0.0, self._greedy
        self.states = tuple(each[len(greedy.action_keys) :])
        for key, state in zip(greedy.states, self.states, strict=True):
            _check_numbers(state, self._step[after(key)][rows], nn.Identity(), "a state")
        for index, (key, action) in enumerate(zip(greedy.action_keys, each, strict=False)):
            expected, cast, scores = self._step[key][rows], greedy.casts[index], self._scores[index]
            if scores is None:
                apart = max(apart, _check_numbers(action, expected, cast))
            else:
                start = getattr(cast, "start", 0)
                _check_choice(self._index(action - start, scores), self._index(expected, scores), scores[rows])
        return apart

    def _index(self, action: Tensor, scores: Tensor) -> Tensor:
        """Actions as indices into scores."""
        joint = getattr(self._actor, "joint", None)
        return (action if joint is None else joint.index(action)).long().reshape(len(action), *scores.shape[1:-1])


def cases(agent: Agent, greedy: GreedyPolicy) -> Iterator[Case]:
    """Random inputs, and those of real episodes; each is checked before the next, which has its states."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        inputs = greedy.example(_RANDOM)
    yield Case(agent, greedy, inputs)
    copies = min(_ENVS, most_copies(agent.settings.env, agent.settings.eval_envs, agent.settings.num_envs))
    env = make_env_of_any_size(replace(agent.settings.env, num_envs=copies, backend="auto"), seed=0)
    try:
        step, starts = env.reset(), greedy.starts
        states: Iterable[Tensor] = [torch.zeros(*env.batch_size, *spec.shape) for spec in greedy.states.values()]
        for _ in range(_STEPS):
            observed = (step[key] + starts[key] if key in starts else step[key] for key in greedy.keys)
            case = Case(agent, greedy, (*observed, *states))
            yield case
            stepped, step = env.step_and_maybe_reset(step.update(case.actions))
            ended = stepped["next", "done"]
            states = [each.masked_fill(ended.reshape(-1, *[1] * (each.ndim - 1)), 0.0) for each in case.states]
    finally:
        env.close()


def _scores(distribution: Any) -> list[Tensor | None]:
    """The scores of the choices of each entry of an action, `[B, *K, N]`; `None` for a Box."""
    if isinstance(distribution, JointDistribution):
        return [each for part in distribution.parts.values() for each in _scores(part)]
    if isinstance(distribution, Categorical):
        return [distribution.logits]
    if isinstance(distribution, MultiCategorical):
        return [distribution.each.logits]
    if isinstance(distribution, Bernoulli):
        return [torch.stack([torch.zeros_like(distribution.logits), distribution.logits], -1)]
    return [None]


def _check_numbers(action: Tensor, expected: Tensor, cast: Any, what: str = "an action") -> float:
    off = TOLERANCE * max(1.0, expected.abs().max().item())
    # as numbers of the space, which may be whole
    bounds = (cast(expected - off), cast(expected + off))
    least, most, found, exact = (each.double() for each in (*bounds, action, cast(expected)))
    apart = (found - exact).abs().max().item()
    if not ((least <= found) & (found <= most)).all():
        raise RlpipeError(f"what was exported does not act as the policy does: {what} is {apart:.1e} off")
    return apart


def _check_choice(index: Tensor, expected: Tensor, scores: Tensor) -> None:
    place = index.clamp(0, scores.shape[-1] - 1)
    chosen, best = (scores.gather(-1, each.unsqueeze(-1)).squeeze(-1) for each in (place, expected))
    tied = (best - chosen <= TOLERANCE * best.abs().clamp_min(1.0)) & (place == index)
    if not (tied | (index == expected)).all():
        raise RlpipeError("what was exported does not act as the policy does: it takes another action")
