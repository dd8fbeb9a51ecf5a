"""What is this machine, what fits on it, and how fast is it really?"""
