"""How are many sequences decoded together? A continuous-batching loop in a worker process of its own."""
