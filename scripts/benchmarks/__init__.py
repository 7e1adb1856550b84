"""The benchmarks of `rlpipe benchmark`, their measurements and their output.

The `run` of each benchmark yields its rows. It takes the names of the arms to compare with (`against`), whether to be
`quick`, the `seeds`, of which only `solve` uses more than the first, and a function that prints a line (`progress`).
"""
