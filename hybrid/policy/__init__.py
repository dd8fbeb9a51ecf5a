"""Where is the decision made? Here, as pure functions of values."""
