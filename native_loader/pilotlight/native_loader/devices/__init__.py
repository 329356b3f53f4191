"""Devices, their memory, and weights in it."""
