"""Predictions: one pass, sweeps, comparisons, capacities, generation."""
