"""What lies on the node's disks, and how fast they are."""
