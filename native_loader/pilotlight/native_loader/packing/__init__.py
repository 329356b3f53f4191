"""Rewriting checkpoints, from whatever they are stored as."""
