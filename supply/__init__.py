"""What this project is built from."""
