"""Kill commands that write, at random moments, and compare what they leave with what a whole run leaves."""
