"""Online RL: what answers are worth beside each other, the controls, and what is watched while a model learns from them."""
