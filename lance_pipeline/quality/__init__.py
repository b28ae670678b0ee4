"""What is wrong with data: copies, leakage, labels, classes and sizes."""
