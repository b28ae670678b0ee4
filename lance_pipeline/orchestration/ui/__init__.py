"""``make ui``: Dagster, MLflow and the reports of checks behind one guarded port."""
