"""Answers of a model to prompts, from any engine through one interface, sample by sample on record."""
