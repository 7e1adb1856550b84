"""What other libraries print is theirs to decide, and none of a run: it is switched off as they document it."""

from __future__ import annotations

import logging
import os

_SWITCHES = {"RL_LOGGING_LEVEL": "WARNING", "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
"""TorchRL logs to stdout from INFO on, and pygame greets there; workers read these variables too."""


def quieten() -> None:
    """Switch off what TorchRL and pygame print, unless the environment says otherwise.

    A logger of TorchRL that is there already keeps a level that somebody has chosen.
    """
    logger, chosen = logging.getLogger("torchrl"), "RL_LOGGING_LEVEL" in os.environ
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    if not chosen and logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)
