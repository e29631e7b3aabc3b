"""The doctor of labels: what is wrong with a data set, and its corrected copy."""
