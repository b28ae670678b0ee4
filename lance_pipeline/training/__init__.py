"""Training a ResNet-34 on batches of images; works without Dagster or MLflow."""
