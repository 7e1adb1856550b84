"""Tabular SARSA, Rummery and Niranjan 1994; Sutton and Barto 2018, section 6.4, equation 6.7.

Collect `rollout_steps` steps of each environment, with a random action with probability epsilon.
Compute for each step, once its next action `a'` is known, the target `r + gamma * Q(s', a')` and its TD error.
Update `Q(s, a) += step_size * error` in the table; there is no loss and no optimiser.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.losses import functional as F
from rlpipe.modules import ActionValueTable
from rlpipe.pipelines.algorithms.configs.sarsa import Config
from rlpipe.pipelines.algorithms.tabular import Step, make_control
from rlpipe.pipelines.checkpoints.state_checks import Kind, check_rows
from rlpipe.pipelines.pipeline import Pipeline

_ENTRIES = ("state", "action", "reward", "terminated")
"""What a step keeps until its next action is known."""


class Sarsa:
    """The rule `Q(s, a) += step_size * (r + gamma * Q(s', a') - Q(s, a))`.

    `a'` is the next action taken, so a step within an episode waits for the step after it. The value of a terminal
    state is 0. Where an episode is truncated, `a'` is drawn from the policy.

    Args:
        table: of action values.
        policy: gives `a'` at a truncation.
        gamma: discount factor per step.
        step_size: fraction of the error by which an entry moves.
        num_envs: of the batches, if known, to check a checkpoint's.
    """

    def __init__(
        self,
        table: ActionValueTable,
        policy: TensorDictModuleBase,
        *,
        gamma: float,
        step_size: float,
        num_envs: int | None = None,
    ) -> None:
        self.table, self.policy, self.gamma, self.step_size = table, policy, gamma, step_size
        self.num_envs = num_envs
        self._waiting: dict[str, Tensor] = {}

    def __call__(self, step: Step) -> Tensor:
        """Learn from one step of every environment, and return the errors of the steps that are complete."""
        errors = []
        if self._waiting:
            rows = self._waiting["row"]
            errors.append(self._move(self._waiting, step.state[rows], step.action[rows]))
        ended = step.done.nonzero().squeeze(-1)
        if len(ended):
            last = self._entries(step, ended)
            errors.append(self._move(last, step.next_state[ended], self._draw(step, ended)))
        unfinished = (~step.done).nonzero().squeeze(-1)
        self._waiting = self._entries(step, unfinished) if len(unfinished) else {}
        return torch.cat(errors) if errors else torch.zeros(0)

    @staticmethod
    def _entries(step: Step, rows: Tensor) -> dict[str, Tensor]:
        # copies, because a batch's memory may be reused
        return {"row": rows, **{name: getattr(step, name)[rows].clone() for name in _ENTRIES}}

    def _move(self, taken: dict[str, Tensor], next_state: Tensor, next_action: Tensor) -> Tensor:
        state, action, reward, terminated = (taken[name] for name in _ENTRIES)
        next_value = self.table(next_state)
        target = F.sarsa_target(reward, self.gamma * (~terminated).to(next_value), next_value, next_action)
        error = F.td_error(self.table(state), action, target)
        self.table.add(state, action, self.step_size * error)
        return error

    def _draw(self, step: Step, rows: Tensor) -> Tensor:
        observed = {"observation": step.next_state[rows]}
        if step.next_mask is not None:
            observed["action_mask"] = step.next_mask[rows]
        with set_exploration_type(ExplorationType.RANDOM):
            return self.policy(TensorDict(observed, batch_size=rows.shape)).get("action")

    def drop_unfinished(self) -> None:
        """Forget the steps whose next action is not known yet."""
        self._waiting = {}

    def state_dict(self) -> dict[str, Any]:
        """The steps whose next action is not known yet."""
        return dict(self._waiting)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        if state:
            states, actions = self.table.values.shape
            whole = {"row": self.num_envs, "state": states, "action": actions}
            kinds = {name: Kind(torch.Size([]), torch.int64, below) for name, below in whole.items()}
            kinds |= {"reward": Kind(torch.Size([]), torch.float32), "terminated": Kind(torch.Size([]), torch.bool)}
            check_rows(state, kinds, "the state")
        self._waiting = {name: value.clone() for name, value in state.items()}


def build(config: Config) -> Pipeline:
    """Build tabular SARSA.

    Raises:
        ConfigError: the environment is not available, or its spaces are not Discrete.
    """
    return make_control(
        config, partial(Sarsa, gamma=config.gamma, step_size=config.step_size, num_envs=config.num_envs)
    )
