"""The cost table: what runs, as lists of kernels with exact formulas."""
