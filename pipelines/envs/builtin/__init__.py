"""The environments that rlpipe brings: mazes and CartPoles."""
