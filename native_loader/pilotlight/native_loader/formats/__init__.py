"""Checkpoints as they lie on disks, and all that is checked of them."""
