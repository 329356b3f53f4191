"""Shows all of Pilotlight on one machine, with checkpoints that it makes."""
