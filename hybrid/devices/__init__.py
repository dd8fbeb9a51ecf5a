"""What is this machine, where should a model run on it, and how fast is it really? The package; see its README."""
