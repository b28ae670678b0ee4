"""Measures trainings: their time to accuracy, and the overhead around them."""
