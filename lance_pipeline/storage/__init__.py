"""Lance tables and their versions, object stores, locks, private folders, atomic file writes."""
