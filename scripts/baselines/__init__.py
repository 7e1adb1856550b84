"""What is compared with: TorchRL's and Stable-Baselines3's own classes, put together as their makers do it."""
