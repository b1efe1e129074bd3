"""Steers at sites inside the model, in closed form."""
