"""Benchmarks: what Ramify costs and how it does beside its peers, measured on the machine at hand.

    document.py     the one form of every answer: conditions, rows, aims
    frame.py        what a benchmark gets: rows and aims to fill, homes and deadlines that clean up after it
    programs.py     programs that are started, timed, watched and ended
    processes.py    memory and processor time of a family of processes
    probe.py        tasks of no work on a running mesh
    parts.py        brokers, schedulers, workers, each of which can be killed and started again
    driver.py       the process that publishes and reads back; flood.py is our own one, peers/ holds the others'
    chaos*.py       deaths, outages and cut links by a seed; what judges from outside what became of the tasks
    simulation/     the control plane in virtual time
    conditions.py   machine, versions, load
    catalogue.py    the benchmarks there are
    report.py       BENCHMARKS.md from the documents that were kept

Every other module is a benchmark: it declares `NAME`, `WHY` and `run(frame)`. `bin/agent bench NAME` runs one.
"""
