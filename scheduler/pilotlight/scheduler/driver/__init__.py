"""The shell around the core: carries out its actions and tells it what came of them."""
