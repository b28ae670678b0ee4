"""The commands of `lance-pipeline`, a module each."""
