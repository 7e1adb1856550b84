"""What environments report in `info`: successes, and the numbers that are logged on request.

Worker processes import this package, so it must not import PyTorch.
"""
