"""Samples drawn from a model, and grids of them."""
