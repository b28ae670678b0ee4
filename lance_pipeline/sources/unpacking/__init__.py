"""Unpacking of archives within limits: the members of each format, and the folder they are written to."""
