"""Online RL without a model."""
