"""Devices: where it runs, from hardware files to constants."""
