"""Tabular Q-learning, Watkins and Dayan 1992; Sutton and Barto 2018, section 6.5, equation 6.8.

Collect `rollout_steps` steps of each environment, with a random action with probability epsilon.
Compute for each step the target `r + gamma * max_a Q(s', a)` and its TD error, `target - Q(s, a)`.
Update `Q(s, a) += step_size * error` in the table; there is no loss and no optimiser.
"""

from __future__ import annotations

from functools import partial

from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from rlpipe.losses import functional as F
from rlpipe.modules import ActionValueTable, only_allowed
from rlpipe.pipelines.algorithms.configs.q_learning import Config
from rlpipe.pipelines.algorithms.tabular import Rule, Step, make_control
from rlpipe.pipelines.pipeline import Pipeline


def build(config: Config) -> Pipeline:
    """Build tabular Q-learning.

    Raises:
        ConfigError: the environment is not available, or its spaces are not Discrete.
    """

    def make_rule(table: ActionValueTable, policy: TensorDictModuleBase) -> Rule:
        return partial(q_learning_step, table, gamma=config.gamma, step_size=config.step_size)

    return make_control(config, make_rule)


def q_learning_step(table: ActionValueTable, step: Step, *, gamma: float, step_size: float) -> Tensor:
    """Move `Q(s, a)` by `step_size` times its TD error, and return the errors, `[num_envs]`.

    All errors are computed before the table changes; a pair that several environments visit moves by each error.
    """
    next_value = only_allowed(table(step.next_state), step.next_mask)
    target = F.q_learning_target(step.reward, gamma * (~step.terminated).to(next_value), next_value)
    error = F.td_error(table(step.state), step.action, target)
    table.add(step.state, step.action, step_size * error)
    return error
