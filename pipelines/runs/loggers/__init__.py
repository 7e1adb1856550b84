"""Where a run's metrics go beside its own files."""
