"""Which bytes of a checkpoint go where on which device."""
