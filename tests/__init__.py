"""Tests of the project; a regular package, so that no installed distribution's `tests` can stand in its place."""
