"""The trainer and what surrounds it: weight average, checkpoints, processes, diagnostics."""
