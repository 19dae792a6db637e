"""Histograms and statistics of weights."""
