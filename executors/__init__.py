"""Executors: what runs inside a worker's child processes. An agent process imports nothing from here but isolation and
port."""
