"""Gymnasium's side of environments: how they are stepped, checked and saved."""
