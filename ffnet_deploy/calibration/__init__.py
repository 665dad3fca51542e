"""Ranges for INT8: which images, what is observed on them, and the file that keeps it."""
