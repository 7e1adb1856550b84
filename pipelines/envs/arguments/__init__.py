"""What an environment is made from: ids, classes, callables and instances, their arguments, and wrappers."""
