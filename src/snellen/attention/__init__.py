"""Numerical kernels of attention, each with its slow twin in `reference`."""
