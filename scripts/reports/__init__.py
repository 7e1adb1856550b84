"""Reading run folders, and the tables and pages made from them, for `rlpipe table` and `rlpipe report`."""
