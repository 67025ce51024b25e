"""Sample quality: a classifier and a Frechet distance."""
