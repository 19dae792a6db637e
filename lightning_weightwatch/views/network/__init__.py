"""A diagram of a network: laid out, then drawn."""
