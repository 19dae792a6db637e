"""Settings of every test."""

import torch

# Layers of forty units on many threads spend their time waiting for each other.
torch.set_num_threads(1)
