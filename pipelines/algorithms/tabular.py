"""What the tabular methods share: Configs, environment, single steps of a batch, and how action values are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Categorical
from torchrl.envs import EnvBase, TransformedEnv

from rlpipe.errors import ConfigError
from rlpipe.modules import ActionValueTable, QActor, only_allowed
from rlpipe.modules.base import kind_of
from rlpipe.modules.encoders import observed_leaves
from rlpipe.pipelines.build.environment import make_training_env
from rlpipe.pipelines.build.networks import is_masked, make_explorer
from rlpipe.pipelines.build.pipeline import make_pipeline
from rlpipe.pipelines.checkpoints.state_checks import check_like
from rlpipe.pipelines.config.tabular import ActionValueConfig, TabularConfig
from rlpipe.pipelines.envs import BinObservation
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.seeding import Seeds

MAX_ENTRIES = 100_000_000
"""Of a table: 800 MB."""


def make_tabular_env(config: TabularConfig, seeds: Seeds) -> TransformedEnv:
    """The environment to train in, with its observation cut into bins if the config has `bins`.

    Raises:
        ConfigError: observations or actions are not Discrete.
    """
    bins = []
    if config.bins is not None and config.bin_low is not None and config.bin_high is not None:
        bins = [BinObservation(config.bins, config.bin_low, config.bin_high)]
    env = make_training_env(config, seeds, bins)
    seen, actions = observed_leaves(env.observation_spec), env.full_action_spec["action"]
    if list(seen) != ["observation"] or type(seen["observation"]) is not Categorical:
        env.close()
        kind = kind_of(seen["observation"]) if list(seen) == ["observation"] else "a Dict or Tuple"
        hint = ": the transform BinObservation makes it so, with --bins, --bin-low and --bin-high"
        raise ConfigError(
            f"env_id is {config.env_id!r}, whose observation is {kind}; a table needs a Discrete one"
            f"{hint if kind == 'a Box' else ', try ppo or dqn'}"
        )
    if type(actions) is not Categorical:
        env.close()
        raise ConfigError(
            f"env_id is {config.env_id!r}, whose actions are {kind_of(actions)}; a table needs Discrete ones, try ppo"
        )
    return env


def table_shape(env: EnvBase) -> tuple[int, int]:
    """Number of states and number of actions.

    Raises:
        ConfigError: their table would not fit into memory.
    """
    states, actions = int(env.observation_spec["observation"].space.n), int(env.action_spec.space.n)
    if states * actions > MAX_ENTRIES:
        raise ConfigError(f"a table of {states:,} states and {actions} actions is too large; take fewer bins")
    return states, actions


class Step(NamedTuple):
    """One step of every environment, `[num_envs]` each; the masks `[num_envs, A]` where there are any."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    terminated: Tensor
    done: Tensor
    mask: Tensor | None
    next_mask: Tensor | None


def steps_of(batch: TensorDictBase) -> Iterator[Step]:
    """The steps of a batch `[num_envs, T]`, one after the other."""
    after = batch.get("next")
    state, action, next_state = batch.get("observation"), batch.get("action"), after.get("observation")
    reward, terminated, done = (after.get(key).squeeze(-1) for key in ("reward", "terminated", "done"))
    mask, next_mask = (each.get("action_mask", None) for each in (batch, after))
    columns = (state, action, reward, next_state, terminated, done, mask, next_mask)
    for time in range(batch.shape[1]):
        yield Step._make(None if each is None else each[:, time] for each in columns)


class ChangeMeter:
    """Measures how much the greedy values, or the policy, of a table change from one episode's end to the next.

    Args:
        table: gives scores `[*B, A]` for states `[*B]`.
        states: number of states.
        outcome: from scores `[S, A]`, minus infinity for forbidden actions, to the greedy values or the policy.
    """

    def __init__(self, table: nn.Module, states: int, outcome: Callable[[Tensor], Tensor]) -> None:
        self._table, self._states, self._outcome = table, torch.arange(states), outcome
        self._allowed = torch.ones_like(table(self._states), dtype=torch.bool)
        self._last = outcome(table(self._states))

    def note(self, step: Step) -> None:
        """Remember which actions the visited states allow."""
        if step.mask is None:
            return
        news = (self._allowed[step.state] != step.mask).any(-1)
        if news.any():
            state = step.state[news]
            self._allowed[state] = step.mask[news]
            # a new mask is no change
            self._last[state] = self._now()[state]

    def _now(self) -> Tensor:
        return self._outcome(only_allowed(self._table(self._states), self._allowed))

    def report(self, scalars: TensorDictBase) -> TensorDictBase:
        """Add `change`, the sum of absolute differences from the last call, to a batch's scalars.

        It is left out if it is 0: an episode without reward does not mean convergence.
        """
        now = self._now()
        change, self._last = (now - self._last).abs().sum(), now
        return scalars.set("change", change) if change else scalars

    def state_dict(self) -> dict[str, Tensor]:
        """What the next change is measured from."""
        return {"allowed": self._allowed, "last": self._last}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state_dict`."""
        check_like(self.state_dict(), state)
        self._allowed, self._last = state["allowed"].clone(), state["last"].clone()


Rule = Callable[[Step], Tensor]
"""Moves a table by one step of every environment, and returns the TD errors, `[n]`."""


def make_control(
    config: ActionValueConfig, make_rule: Callable[[ActionValueTable, TensorDictModuleBase], Rule]
) -> Pipeline:
    """Build a method that learns action values; it acts epsilon-greedily, and breaks ties at random while exploring.

    `make_rule` goes from a table and the policy over it to the rule; one with a `state_dict` is part of checkpoints.

    Raises:
        ConfigError: the environment is not available, or its spaces are not Discrete.
    """
    seeds = Seeds(config.seed)
    env = make_tabular_env(config, seeds)
    table = ActionValueTable(*table_shape(env))
    actor = QActor(table, env.action_spec, is_masked(env), tie_breaker=seeds.generator("ties"))
    explorer = make_explorer(config, env, seeds.generator("exploration"))
    policy = TensorDictSequential(actor, explorer)
    meter = ChangeMeter(table, len(table.values), lambda scores: scores.amax(-1))
    rule = make_rule(table, policy)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        errors = []
        for step in steps_of(batch):
            meter.note(step)
            errors.append(rule(step))
        explorer.advance(batch)
        moved = torch.cat(errors)
        scalars = TensorDict(updates=torch.tensor(len(errors)), epsilon=torch.tensor(explorer.epsilon))
        if len(moved):
            scalars.set("td_error", moved.abs().mean())
        return meter.report(scalars) if batch.get(("next", "done")).any() else scalars

    parts: dict[str, Any] = {"change": meter, "rule": rule if hasattr(rule, "state_dict") else None}
    return make_pipeline(config, env, policy, learn, seeds, **parts)
