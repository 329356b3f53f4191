"""What every verb of `pilotlight bench` does the same way; import the module that you need."""
