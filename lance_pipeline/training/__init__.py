"""Training a network on batches of images; works without Dagster or MLflow."""
