"""Groups of commands, and what all commands share: options and output."""
