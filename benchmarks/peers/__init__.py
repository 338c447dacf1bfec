"""Peers: what a user would take instead, measured in the same run on the same machine.

    driving.py             a driver's half of the conversation with the benchmark; standard library only
    table.py               what each peer is made of: its packages, broker, workers and driver
    celery_redis.py …      one module per peer: its application, and the driver that submits and reads back
    small_gpt.py           network, data and stop-watch of the training loops beside it
    raw_nats.py            no task queue at all: the least that a durable task with a scheduler's hop can cost

A peer's module runs under the Python that has the peer installed (`--peers-python`), and is never imported by Ramify.
"""
