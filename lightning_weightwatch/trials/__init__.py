"""What compression would cost: quantization and pruning, tried on the user's own evaluation."""
