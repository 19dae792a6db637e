"""What a model costs: FLOPs, parameters, memory and time of each of its modules."""
