"""How a model is used: which weights matter, where activations go, what a forward pass costs."""
