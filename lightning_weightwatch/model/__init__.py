"""What weights a model has: names, kinds, whole tensors out of sharded ones."""
