"""How it is put together and run: environments, collector, updates, the training loop, runs and recipes.

Empty on purpose: the table of recipes must load without PyTorch. The names most people import are in `rlpipe`.
"""
