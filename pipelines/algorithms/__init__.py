"""One file for each algorithm, with its `Config` and `build`, and the table of recipes."""
