"""What losses of an actor and a critic have in common: their keys, and TorchRL's value estimators."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torchrl.objectives import LossModule, ValueEstimators
from torchrl.objectives.utils import default_value_kwargs, get_value_estimator_entry
from torchrl.objectives.value import ValueEstimatorBase

from rlpipe.losses.base.keys import ActorCriticKeys, Keyed
from rlpipe.losses.base.terms import action_keys
from rlpipe.modules.recurrent import recurrent_parts, state_specs


class ActorCriticLoss(Keyed, LossModule):
    """A loss of an actor and a critic, or of an actor alone.

    Keys are changed by `set_keys`, as in TorchRL's losses: `action`, `sample_log_prob`, `advantage`, `value_target`,
    `value` (what the critic writes), and for a value estimator `reward`, `done` and `terminated`.

    A subclass has a `forward`, and defines `set_in_keys`, which it calls at the end of its own `__init__`.

    Raises:
        ValueError: actor and critic have two memories that read the same state.
    """

    _AcceptedKeys = ActorCriticKeys
    default_value_estimator = ValueEstimators.GAE
    SUPPORTED_VALUE_ESTIMATORS = (
        ValueEstimators.GAE,
        ValueEstimators.TD0,
        ValueEstimators.TD1,
        ValueEstimators.TDLambda,
    )
    # the networks are called as they are, and are submodules
    functional = False
    reset_parameters_recursive = TensorDictModuleBase.reset_parameters_recursive

    def __init__(self, actor: TensorDictModuleBase, critic: TensorDictModuleBase | None) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        states = [key for part in recurrent_parts(self) for key in state_specs(part)]
        if twice := [key for key in states if states.count(key) > 1]:
            raise ValueError(
                f"actor and critic have two memories with one state, {twice[0]!r}, so that one would go on from the "
                "state of the other; share one, or name another state, which the policy that collects must write too"
            )

    @property
    def value_estimator(self) -> TensorDictModuleBase:
        """What writes advantage and value target into batches `[*B, T]`: TorchRL's `GAE`, or what was made."""
        if self._value_estimator is None:
            self.make_value_estimator()
        return self._value_estimator

    @property
    def policy_keys(self) -> list[NestedKey]:
        """What the networks read, and the entries of the action."""
        networks = [self.actor] if self.critic is None else [self.actor, self.critic]
        observed = dict.fromkeys(key for network in networks for key in network.in_keys)
        return [*observed, *action_keys(self.actor, self.tensor_keys.action)]

    def set_keys(self, **keys: NestedKey | None) -> None:
        super().set_keys(**keys)
        self._forward_value_estimator_keys()

    def make_value_estimator(
        self, value_type: ValueEstimators | str | type | TensorDictModuleBase | None = None, **hyperparams: Any
    ) -> ActorCriticLoss:
        """Make `self.value_estimator`, which writes advantage and value target into batches `[*B, T]`, as in TorchRL.

        It uses the critic as it is at each call, without gradient, and the loss's keys. With it, the loss also takes
        batches `[*B, T]` that have no advantage: it computes it in a copy. Minibatches of single steps are not in the
        order of time, so give these their advantages before (`on_policy(loss.value_estimator, ...)`).

        Args:
            value_type: GAE, TD0, TD1 or TDLambda of TorchRL's `ValueEstimators`, or its name; a class of TorchRL's
                estimators; or an estimator, such as our `GAE`, whose keys become those of the loss. GAE by default.
            hyperparams: of TorchRL's estimator, such as `gamma` and `lmbda`. GAE and TDLambda are vectorized unless
                told otherwise.

        Raises:
            ValueError: another kind of estimator, or a loss without a critic.
        """
        given = self.default_value_estimator if value_type is None else value_type
        estimator = given if isinstance(given, TensorDictModuleBase) else self._made(given, hyperparams)
        self.value_type = value_type if value_type is not None else self.default_value_estimator
        # not a submodule: it holds the critic, and would change the names in `state_dict`
        self.__dict__["_value_estimator"] = estimator
        self._forward_value_estimator_keys()
        return self

    def _made(self, kind: Any, hyperparams: dict[str, Any]) -> ValueEstimatorBase:
        if self.critic is None:
            raise ValueError(f"{type(self).__name__} has no critic, whose values an estimator needs")
        if not isinstance(kind, type):
            named = {each.name.lower(): each for each in self.SUPPORTED_VALUE_ESTIMATORS}
            found = named.get(str(getattr(kind, "name", kind)).lower())
            if found is None:
                raise ValueError(
                    f"{type(self).__name__} makes no value estimator {kind!r}; there are "
                    f"{', '.join(each.name for each in self.SUPPORTED_VALUE_ESTIMATORS)}"
                )
            kind, hyperparams = get_value_estimator_entry(found).cls, {**default_value_kwargs(found), **hyperparams}
        usual = {
            "value_network": _Values(self.critic),
            "device": self._default_device,
            # TorchRL's default is a loop over time
            "vectorized": True,
            # a custom critic may do what vmap cannot
            "deactivate_vmap": True,
        }
        taken = inspect.signature(kind).parameters
        return kind(**{**{name: each for name, each in usual.items() if name in taken}, **hyperparams})

    def _forward_value_estimator_keys(self, **_: Any) -> None:
        estimator = self._value_estimator
        if estimator is not None:
            names = (
                vars(ActorCriticKeys()) if isinstance(estimator, ValueEstimatorBase) else vars(estimator.tensor_keys)
            )
            mine = vars(self.tensor_keys)
            estimator.set_keys(**{name: mine[name] for name in names if name in mine and name != "action"})

    def with_advantage(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch; if it has no advantage, and there is a value estimator, a copy with it."""
        if self._value_estimator is None or batch.get(self.tensor_keys.advantage, None) is not None:
            return batch
        with torch.no_grad():
            return self._value_estimator(batch.copy())


class _Values(TensorDictModuleBase):
    """A critic without gradient, whose parameters TorchRL's estimators do not see: they would set `requires_grad`."""

    def __init__(self, critic: TensorDictModuleBase) -> None:
        super().__init__()
        self.in_keys, self.out_keys = critic.in_keys, critic.out_keys
        self.__dict__["critic"] = critic

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.critic(tensordict)
