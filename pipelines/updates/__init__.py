"""Updates: gradient steps, and how a collected batch becomes gradient steps."""
