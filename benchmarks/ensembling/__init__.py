"""Merging, weighting and keeping on the development targets."""
