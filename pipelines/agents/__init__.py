"""A trained agent: loaded from a run, to act, to be evaluated, drawn and exported."""
