"""A class-conditional pixel DDPM in plain torch, followed by the package's own tracker.

``config`` is light enough for ``--help``; every other module loads torch.
"""
