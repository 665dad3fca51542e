"""The commands, one file each: parse the command line, make one call, print the result."""
