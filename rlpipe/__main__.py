"""`python -m rlpipe`."""

import sys

from rlpipe.scripts.main import run

sys.exit(run())
