"""Gymnasium's side of an environment: how it is stepped, checked and saved."""
