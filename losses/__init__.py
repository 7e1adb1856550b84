"""What is minimised: equations (`rlpipe.losses.functional`) and the losses made of them."""

from rlpipe.losses import functional
from rlpipe.losses.a2c import A2CLoss
from rlpipe.losses.dqn import DQNLoss
from rlpipe.losses.ppo import ClipPPOLoss
from rlpipe.losses.reinforce import Normalization, ReinforceLoss
from rlpipe.losses.target import TargetUpdate, frozen_copy

__all__ = [
    "A2CLoss",
    "ClipPPOLoss",
    "DQNLoss",
    "Normalization",
    "ReinforceLoss",
    "TargetUpdate",
    "frozen_copy",
    "functional",
]
