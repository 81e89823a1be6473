"""A model as a function, the same on every path."""
