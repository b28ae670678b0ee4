"""The Dagster side: it wires the plain code of the other packages into assets."""
