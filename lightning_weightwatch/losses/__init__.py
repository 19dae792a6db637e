"""Learning curves: is it overfitting, since when, which checkpoint, what next."""
