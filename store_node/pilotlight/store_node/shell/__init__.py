"""The process around the node core: carries out its actions with pool, loader and workers."""
