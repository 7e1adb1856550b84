"""What is minimised: equations (`rlpipe.losses.functional`) and the losses made of them."""

from rlpipe.losses import functional
from rlpipe.losses.dqn import DQNLoss
from rlpipe.losses.ppo import ClipPPOLoss
from rlpipe.losses.target import TargetUpdate, frozen_copy

__all__ = ["ClipPPOLoss", "DQNLoss", "TargetUpdate", "frozen_copy", "functional"]
