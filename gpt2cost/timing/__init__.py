"""The machine model: how long a kernel takes, and a pass on host and device."""
