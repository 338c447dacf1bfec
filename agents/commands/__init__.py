"""The commands, one small file each.

A command's file has
    EXAMPLE              one or more lines that can be pasted
    add_flags(parser)    its own options; the global ones are added for all (flags.py)
    run(given) -> int    does it; raises RamifyError with one sentence when it can not

and its sentence stands in the table of agents/cli.py. Beside the commands:

    flags.py             options that all share, and how values are read
    output.py            aligned rows, one JSON document, JSON lines
    reach.py             from settings to a connected broker
    asking.py            questions to the leader
    following.py         a topic's records and progress as they come
    waiting.py           why tasks wait, below a table and while a topic is followed
    display.py           bars in a terminal, plain lines elsewhere
    result_document.py   the --json result: a pure function of a topic's records
"""
