"""Images and data sets: reading them in their published layouts, and drawing synthetic ones."""
