"""Verifiable tasks: what generates their problems, which of them are sound, and how an answer is judged."""
