"""Better labels: what is wrong with a data set, its corrected copy, and what to label next."""
