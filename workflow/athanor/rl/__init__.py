"""Reinforcement learning: what models answer, and later what they learn from it."""
