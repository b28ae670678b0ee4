"""The parts of an ingest, from the listed file to the committed row."""
