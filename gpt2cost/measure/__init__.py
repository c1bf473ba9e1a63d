"""The real thing: timed, traced, and predictions scored by it."""
