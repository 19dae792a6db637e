"""Files of weights, and logs of runs: what they are and what is in them."""
