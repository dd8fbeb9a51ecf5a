"""What is this machine, and how should a model be placed on it? The package; see its README for the parts."""
