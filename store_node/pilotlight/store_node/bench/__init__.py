"""What `pilotlight bench start` measures: starts, throughput, and that outputs are equal."""
