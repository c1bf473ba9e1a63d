from gpt2cost.cli import main

main()
