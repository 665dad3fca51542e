"""The steps of each command, in order. This room knows all stages and prints nothing."""
