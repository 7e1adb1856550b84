"""The page that `rlpipe report` writes."""
