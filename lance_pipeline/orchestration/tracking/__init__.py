"""MLflow: runs, data sets, models and what is logged of a training."""
