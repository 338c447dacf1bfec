"""What every test gets: one computing thread, so that tests beside each other do not fight for the cores.

Warnings are errors, and each test has a deadline: both stand in pyproject.toml.
"""

from __future__ import annotations

import os

# Read by numeric libraries when they are first imported, here and in every child that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
