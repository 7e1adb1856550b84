"""The names of the files in a run folder, and how large they may be. Imports nothing heavy."""

from __future__ import annotations

CONFIG = "config.json"
"""What the run is: recipe, algorithm, config and origin."""
VERSIONS = "versions.json"
"""Packages, commit and machine."""
METRICS = "metrics.jsonl"
"""A line for each batch, or every `log_every` frames."""
EVALUATIONS = "evaluations.jsonl"
"""A line for each evaluation, with the return and length of every episode."""
BEST = "best.json"
"""Which checkpoint holds the agent of the best evaluation."""
RESUMES = "resumes.jsonl"
"""A line for each time that the run was resumed."""
LOGGERS = "loggers.json"
"""The ids by which W&B and MLflow know the run."""
LOCK = "lock"
"""Held by the process that writes the run."""
CURVE = "curve.png"
"""Evaluation returns and training returns against frames."""
GIF = "agent.gif"
"""An episode of the trained policy, if asked for."""

WINDOW = 20
"""Episodes in the mean of training returns that is shown, unless a config has another number.

A hundred are most of a short run: their mean stays low long after an agent has learned to go on for 500 steps.
"""
LARGEST_JSON = 1_000_000
"""The most bytes of a `.json` file that is read."""
LARGEST_LINES = 500_000_000
"""The most bytes of a `.jsonl` file that is read."""
