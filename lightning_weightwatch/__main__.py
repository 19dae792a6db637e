"""`python -m lightning_weightwatch`: the command without its script."""

import sys

from lightning_weightwatch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
