"""The benchmarks of `rlpipe benchmark`, their measurements and their output."""
