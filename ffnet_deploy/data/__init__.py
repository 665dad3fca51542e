"""Published data sets and folders of pictures: found in any of their layouts, decoded, prepared for a network."""
