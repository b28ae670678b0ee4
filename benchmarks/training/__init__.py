"""How trainings are measured: how soon they are good, and what all that surrounds them costs."""
