"""What is minimised: equations (`rlpipe.losses.functional`) and the losses made of them."""

from rlpipe.kinds import Normalization
from rlpipe.losses import functional
from rlpipe.losses.a2c import A2CLoss
from rlpipe.losses.advantage import GAE
from rlpipe.losses.base.actor_critic import ActorCriticLoss
from rlpipe.losses.base.keys import Keyed
from rlpipe.losses.base.q_network import QNetworkLoss
from rlpipe.losses.base.target import HasTargets, TargetUpdate, frozen, frozen_copy
from rlpipe.losses.base.terms import (
    action_keys,
    column,
    discrete_action,
    distribution_of,
    nested,
    observed,
    policy_terms,
    read,
    scalar,
    standardized,
    value_terms,
)
from rlpipe.losses.dqn import DQNLoss
from rlpipe.losses.ppo import ClipPPOLoss
from rlpipe.losses.qr_dqn import QRDQNLoss
from rlpipe.losses.reinforce import ReinforceLoss
from rlpipe.losses.returns import NStep, ReturnToGo
from rlpipe.losses.sac import SACLoss
from rlpipe.losses.td3 import TD3ActorLoss, TD3CriticLoss

__all__ = [
    "GAE",
    "A2CLoss",
    "ActorCriticLoss",
    "ClipPPOLoss",
    "DQNLoss",
    "HasTargets",
    "Keyed",
    "NStep",
    "Normalization",
    "QNetworkLoss",
    "QRDQNLoss",
    "ReinforceLoss",
    "ReturnToGo",
    "SACLoss",
    "TD3ActorLoss",
    "TD3CriticLoss",
    "TargetUpdate",
    "action_keys",
    "column",
    "discrete_action",
    "distribution_of",
    "frozen",
    "frozen_copy",
    "functional",
    "nested",
    "observed",
    "policy_terms",
    "read",
    "scalar",
    "standardized",
    "value_terms",
]
