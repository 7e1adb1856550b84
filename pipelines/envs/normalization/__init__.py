"""Running normalisation of observations and rewards."""
