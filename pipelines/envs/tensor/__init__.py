"""Environments whose states are tensors, on the CPU or on a GPU."""
