"""A listing of image files to the rows of Lance datasets: every file accounted for, only changes read."""
