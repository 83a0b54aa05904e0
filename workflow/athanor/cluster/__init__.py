"""Slurm as a training campaign sees it: what the ends of jobs mean, and the nodes that failed them."""
