"""Files of weights: what they are, what is in them, and their tensors one at a time."""
