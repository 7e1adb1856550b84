"""The options of each algorithm, apart from what learns, so that a command line is read without PyTorch."""
