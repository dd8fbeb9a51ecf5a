"""When is a local answer right, how do we know, and what may be promised? Measured offline, on answers with labels."""
