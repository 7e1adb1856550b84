"""The benchmarks behind `rlpipe benchmark`, how they measure, and how they report."""
