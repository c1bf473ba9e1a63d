from gpt2cost.cli.app import main

main()
