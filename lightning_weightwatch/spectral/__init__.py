"""Spectra of weight matrices, and the heavy-tailed metrics of WeightWatcher."""
