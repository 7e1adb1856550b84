"""Training several seeds side by side, for `rlpipe train --seeds`."""
