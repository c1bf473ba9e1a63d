"""Measurements to a hardware file."""
