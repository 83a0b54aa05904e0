"""One campaign as its user lives with it: planned, registered, watched, explained, summed up, cleaned away."""
