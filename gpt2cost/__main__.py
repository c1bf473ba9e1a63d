"""`python -m gpt2cost` is the command line."""

from gpt2cost.cli.app import main

main()
