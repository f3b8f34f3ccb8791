"""Predictions as formulas over plain arrays, a file for each kind of model."""
