"""Whole experiments: train, then measure."""
