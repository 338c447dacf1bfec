"""Planner's and scheduler's minds: pure decisions. Nothing here awaits, reads a clock, logs or imports a hand."""
