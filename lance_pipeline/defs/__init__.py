"""What this deployment runs: one folder with a ``defs.yaml`` for each dataset, and the resources."""
