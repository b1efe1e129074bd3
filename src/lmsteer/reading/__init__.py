"""Reading: the log-likelihood of texts as a function of a steer's strength, and the words that a steer acts on."""
