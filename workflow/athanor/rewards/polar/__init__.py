"""POLAR (Dou et al. 2025, arXiv 2507.05197): a reward model that tells whether two texts come from one policy."""
