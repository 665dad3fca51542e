"""Accuracy of the reference and of every rung: on the same decoded images, several of them in work at a time."""
