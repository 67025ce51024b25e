"""Handwritten digits and EMNIST: files, download, loading."""
