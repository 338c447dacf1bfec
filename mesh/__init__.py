"""The mesh: words (names, records, errors, limits) and the adapters that touch NATS, disk and processes."""
