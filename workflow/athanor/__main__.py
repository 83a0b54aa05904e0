"""`python -m athanor`: the command line, for interpreters whose PATH lacks `athanor`."""

import sys

from athanor.cli import main

if __name__ == "__main__":  # dist_checkpointing spawns processes that import this file again
    sys.exit(main())
