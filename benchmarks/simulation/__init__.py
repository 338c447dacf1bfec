"""The control plane in virtual time under seeded faults: does the mesh keep its promises whatever happens to it?

    seed -> a world: the real scheduler, real workers with simulated children, people, a broker in memory
         -> CHAOS_S of faults (messages, partitions, kill -9 at any await, stalls, outages), then none
         -> everything must settle; judges read ledger, results and outboxes from outside

    clocks.py       the loop: virtual time, blocking calls done in place, the wall clock that may jump
    process.py      a process: tasks that can be killed at any await, or stopped and continued as SIGSTOP does
    trace.py        what happened, for the story of a failure
    network.py      what happens to messages and calls on the way
    parts.py        stand-ins for disk and children
    store.py        a stand-in for a worker's artifact store
    lives.py        machines that start, kill and restart the agents
    work.py         what is published and withdrawn
    followup.py     what is submitted because something has succeeded
    operator.py     who drains workers and starts parked tasks again
    chaos.py        the faults of one seed
    judge.py        the promises, and a second, simple account of the ledger that tells whether they hold
    obedience.py    the same for what the operator says
    world.py        one seed from its start to its verdict
    run.py          many seeds, and their totals

The same seed gives the same run, event by event, in every process. docs/simulation.md says what is simulated and what
is not.
"""
