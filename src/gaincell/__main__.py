"""`python -m gaincell`: the command line, for launchers that start modules (torchrun -m gaincell ...)."""

from gaincell.cli import main

main()
