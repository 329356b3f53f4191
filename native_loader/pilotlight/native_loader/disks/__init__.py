"""How disks are read best."""
