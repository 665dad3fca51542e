"""A fuzz harness over all readers: damaged files give the same result, or one line that says what is wrong."""
