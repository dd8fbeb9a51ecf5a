"""Who computes logits? One file a backend; the file name is the config value."""
