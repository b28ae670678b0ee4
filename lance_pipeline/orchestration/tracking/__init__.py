"""MLflow: runs, datasets, models and what is logged of a training."""
