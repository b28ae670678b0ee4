"""Checks of data quality: duplicates, leakage, label conflicts, class balance and odd sizes."""
