"""The mathematics of an update: from rewards and log-probabilities to a loss.  Nothing here sees text."""
