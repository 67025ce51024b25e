"""Where a run is kept: its files on disk, and its run in MLflow."""
