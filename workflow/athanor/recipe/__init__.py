"""The typed configuration: what to train (recipe) and where to run (site), loaded, checked and fingerprinted."""
