"""The program's version: said in the hello, in logs and by `bin/agent --version`."""

from __future__ import annotations

PROGRAM_VERSION = "0.1.0"
