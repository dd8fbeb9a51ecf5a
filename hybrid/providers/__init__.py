"""Which cloud APIs can be paid? One file per kind; the file name is the `kind` in the configuration. See README.md."""
