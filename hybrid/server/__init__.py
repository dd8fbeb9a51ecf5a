"""How does HTTP come in and go out? Routes, dialects, guards; whoever answers stands behind `gateway.Gateway`."""
