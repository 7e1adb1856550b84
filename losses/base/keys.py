"""The names of the entries that losses and advantages read and write, and how to change them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tensordict import unravel_key
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey

from rlpipe.spelling import did_you_mean


class Keyed(TensorDictModuleBase):
    """A module whose keys can be changed, as those of TorchRL's losses: `module.set_keys(reward="score")`.

    A subclass names its keys and their defaults in `_AcceptedKeys`, a dataclass, reads them from `self.tensor_keys`,
    and defines `set_in_keys`, which it calls at the end of its own `__init__`.
    """

    _AcceptedKeys: type
    default_keys: type
    """The dataclass of the keys; an instance has the defaults."""
    _tensor_keys: Any

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_AcceptedKeys" in vars(cls):
            cls.default_keys = cls._AcceptedKeys

    def __init__(self) -> None:
        super().__init__()
        self._tensor_keys = self._AcceptedKeys()

    @property
    def tensor_keys(self) -> Any:
        """The present keys, by name."""
        return self._tensor_keys

    def set_keys(self, **keys: NestedKey | None) -> None:
        """Change keys by name; `in_keys` and `out_keys` follow.

        Args:
            keys: a string, a tuple of strings for a nested entry, or `None` for the default. `reward`, `done`,
                `terminated` and `discount` are read under `"next"`.

        Raises:
            ValueError: an unknown name; nothing is changed.
            TypeError: something that is not a key; nothing is changed.
        """
        known = [each.name for each in fields(self._AcceptedKeys)]
        defaults, new = self._AcceptedKeys(), {}
        for name, key in keys.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no key named {name!r}; {did_you_mean(name, known)}")
            new[name] = getattr(defaults, name) if key is None else _checked(name, key)
        vars(self._tensor_keys).update(new)
        self.set_in_keys()

    def set_in_keys(self) -> None:
        """Set `in_keys` and `out_keys` from the present keys; each subclass defines it."""
        raise NotImplementedError


def _checked(name: str, key: NestedKey) -> NestedKey:
    parts = key if isinstance(key, tuple) else (key,)
    if not parts or not all(isinstance(part, str) for part in parts):
        raise TypeError(f"{name} is {key!r}; a key is a string, or a tuple of strings for a nested entry")
    return unravel_key(key)


@dataclass
class AdvantageKeys:
    """Of what computes advantages."""

    advantage: NestedKey = "advantage"
    value_target: NestedKey = "value_target"
    value: NestedKey = "state_value"
    """What the critic writes."""
    reward: NestedKey = "reward"
    done: NestedKey = "done"
    terminated: NestedKey = "terminated"


@dataclass
class ActorCriticKeys(AdvantageKeys):
    """Of a loss of a policy; `reward`, `done` and `terminated` are for its value estimator."""

    action: NestedKey = "action"
    sample_log_prob: NestedKey = "action_log_prob"
    """The log-probability of the action when it was collected."""


@dataclass
class ReinforceKeys(ActorCriticKeys):
    """Of `ReinforceLoss`."""

    episode: NestedKey = "episode"


@dataclass
class DQNKeys:
    """Of a `QNetworkLoss`; `value`, `advantage`, `value_target` and `done` are not read, and are TorchRL's."""

    action: NestedKey = "action"
    action_value: NestedKey = "action_value"
    """What the Q network writes."""
    reward: NestedKey = "reward"
    terminated: NestedKey = "terminated"
    discount: NestedKey = "discount"
    priority: NestedKey = "priority"
    """What the loss returns for each sample."""
    priority_weight: NestedKey = "priority_weight"
    value: NestedKey = "chosen_action_value"
    advantage: NestedKey = "advantage"
    value_target: NestedKey = "value_target"
    done: NestedKey = "done"


@dataclass
class QRDQNKeys(DQNKeys):
    """Of `QRDQNLoss`."""

    quantiles: NestedKey = "quantiles"
    """What the network writes beside `action_value`."""


@dataclass
class ActionValueKeys:
    """Of the losses of critics that read the action."""

    action: NestedKey = "action"
    state_action_value: NestedKey = "state_action_value"
    """What each critic writes."""
    reward: NestedKey = "reward"
    terminated: NestedKey = "terminated"
    discount: NestedKey = "discount"


@dataclass
class NStepKeys:
    """Of `NStep`."""

    reward: NestedKey = "reward"
    discount: NestedKey = "discount"
    done: NestedKey = "done"
    terminated: NestedKey = "terminated"


@dataclass
class ReturnKeys:
    """Of `ReturnToGo`."""

    advantage: NestedKey = "advantage"
    value_target: NestedKey = "value_target"
    value: NestedKey = "state_value"
    """What the critic writes."""
    episode: NestedKey = "episode"
    reward: NestedKey = "reward"
    done: NestedKey = "done"
