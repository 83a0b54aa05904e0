"""What benchmarks/faults.py breaks: campaigns whose every loss and every doubled step would show."""
