"""What stages hand over: files, their records, and the workspace they lie in."""
