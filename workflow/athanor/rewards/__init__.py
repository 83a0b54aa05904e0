"""What an answer is worth: verifiers, and rules beside them."""
