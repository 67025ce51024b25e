"""Draws on given axes; files with stable bytes."""
