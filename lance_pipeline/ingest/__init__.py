"""From a listing of image files to rows in Lance datasets: accounts for every file, reads only what changed."""
