"""Lance tables and their versions, object stores, locks, private folders, files written whole or not at all."""
