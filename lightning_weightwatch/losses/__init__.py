"""Learning curves: is it overfitting, and since when."""
