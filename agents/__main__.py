"""`python -P -m agents COMMAND …`: the one entry point behind `bin/agent`."""

from __future__ import annotations

import sys

from agents import cli

if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
