"""Runs `selfplay` from a checkout: `python run.py VERB key=value ...`."""

import sys

from selfplay.commands import main

if __name__ == "__main__":
    sys.exit(main())
