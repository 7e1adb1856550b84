"""rlpipe: a modular pipeline on TorchRL and TensorDict for training reinforcement-learning agents."""

__version__ = "0.1.0"
