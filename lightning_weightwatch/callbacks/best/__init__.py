"""The weights of the best epoch: where they are, and how they come back into the model."""
