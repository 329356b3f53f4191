"""What `pilotlight bench load` measures: loads beside the disk's limit and beside other loaders."""
