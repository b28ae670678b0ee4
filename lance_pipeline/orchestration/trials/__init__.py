"""Recipes that are tried on the data that is there, in MLflow only."""
