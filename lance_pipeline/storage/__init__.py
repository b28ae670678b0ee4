"""Where things are kept: files written whole or not at all, private folders, addresses. Knows nothing of images."""
