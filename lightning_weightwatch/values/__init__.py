"""Many numbers at once: moments, histograms and quantiles, in few passes over them."""
