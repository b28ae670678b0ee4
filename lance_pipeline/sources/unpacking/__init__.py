"""Archives to files: each format's members, within limits, and the folder that they are written to."""
