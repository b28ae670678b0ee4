"""Measuring a trained model; works without Dagster or MLflow."""
