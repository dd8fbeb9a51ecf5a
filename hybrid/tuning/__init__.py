"""Which form of a model is the fastest on this machine that still answers like the model? Tried, measured, recorded."""
