"""What is kept of old trainings and runs, and removing the rest."""
