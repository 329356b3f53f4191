"""A store node: loads checkpoints, leases devices, runs engines in workers."""
