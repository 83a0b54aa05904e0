"""Training by another trainer: what it is told, what it tells, and whether what it made can be gone on from."""
