"""Drawn data: street scenes and pictures of things, to try every command on."""
