"""A run read back, summed up and judged."""
