"""Why each step runs: texts by what a step is, and the rules that find a step's own."""
