"""Where do facts outlive the process? Here, in one SQLite file; README.md says what survives which death."""
