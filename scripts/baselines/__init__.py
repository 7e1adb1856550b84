"""The baselines: TorchRL's and Stable-Baselines3's own classes, used as their documentation shows."""
