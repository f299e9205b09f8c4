"""How models are trained: the loop, what is trained in it, and on which devices."""
