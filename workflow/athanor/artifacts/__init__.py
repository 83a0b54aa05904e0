"""What a stage consumed, produced and can prove: the store, manifests, leases and the run of one stage."""
