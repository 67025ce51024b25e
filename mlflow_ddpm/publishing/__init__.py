"""After the run: publish, download, compare."""
