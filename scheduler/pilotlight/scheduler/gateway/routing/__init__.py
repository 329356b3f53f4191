"""Runs requests of token ids at replicas, each to its end."""
