"""Tracking: stages append to a spool, one writer process drains the spools into MLflow."""
