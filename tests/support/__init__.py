"""What tests share: the command line, stand-ins, golden data."""
