"""Settings of every test."""

import os

import torch

# Layers of forty units on many threads spend their time waiting for each other.
torch.set_num_threads(1)
# In the processes that tests start: whoever waits leaves the core to the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
