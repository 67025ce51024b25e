"""The trainer and what surrounds it: checkpoints, processes, diagnostics."""
