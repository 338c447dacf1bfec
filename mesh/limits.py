"""Every fixed cap of the mesh, with its unit and the reason for its size.

What an operator may choose stands in `mesh/settings.py`; what stands here is part of the protocol or protects a
process.
"""

from __future__ import annotations

# -- the wire ---------------------------------------------------------------------------------------------------------

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""Protocol versions that this program speaks; the ranges of two agents must overlap."""

RECORD_BYTES_MAX = 224 * 1024
"""One encoded record. Under LEDGER_ENTRY_BYTES_MAX, so that any single command fits into one ledger entry."""

REPEATING_BYTES_MAX = 2 * RECORD_BYTES_MAX + 32 * 1024
"""A record that repeats what stood in two others (a task's end: the task and its outcome), so that what was recorded
can also be told. Far below the broker's payload limit."""

LEDGER_ENTRY_BYTES_MAX = 256 * 1024
"""One ledger message: small enough to stay far below the broker's 1 MiB payload, large enough for some 800 events."""

PAYLOAD_HEADROOM_BYTES = 4 * 1024
"""Kept free below the broker's max_payload for headers: a payload of exactly the limit closes the client for good."""

NEST_DEPTH_MAX = 12
"""Maps and lists inside one record; deeper input is an attack or a mistake."""

NAME_CHARS_MAX = 96
"""Ids and names inside subjects: the broker allows more, people can not read more."""

TEXT_CHARS_MAX = 2_000
"""A topic's sentence, a reason, an error: what a person reads."""

TASKS_PER_PLAN_MAX = 256
"""Tasks in one submit command: some 600 bytes each stay below RECORD_BYTES_MAX."""

BRANCHES_MAX = 32
"""Branches of one topic: each is a topic of its own with two lines, and a member of the tree that answers as one."""

LEASES_PER_ANSWER_MAX = 512
"""Leases in one answer to a claim: 512 tasks of 600 bytes are two thirds of what an answer may have, and keep a worker
busy for longer than the next answer takes even where a task lasts a fraction of a millisecond."""

HELD_PER_BEAT_MAX = 1_024
"""Leases named in one beat: some 60 bytes each."""

MISSING_PER_ROW_MAX = 64
"""Missing inputs named in one failure: a task has a handful of inputs."""

DIGEST_CHARS = 64
"""A SHA-256 digest in hexadecimal."""

OWED_PER_REQUEST_MAX = 1_536
"""Outbox keys in one beat or one question for receipts: some 60 bytes each, what a worker owes while it waits for one
commit of the ledger."""

ROWS_PER_PACK_MAX = 1_024
"""Records in one pack: a turn of the scheduler takes a pack as a whole."""

PACK_BYTES_MAX = 192 * 1024
"""Encoded records in one pack; a larger one travels alone."""

# -- artifacts --------------------------------------------------------------------------------------------------------

CHUNK_BYTES = 512 * 1024
"""Size of a chunk: 512 KiB to 1 MiB is fastest through the broker, and stays below its payload limit."""

CHUNKS_IN_FLIGHT = 12
"""Parallel chunk transfers: times CHUNK_BYTES stays far below the 64 MiB at which the server drops a slow client."""

MANIFEST_BYTES_MAX = 900 * 1024
"""A manifest is one message; some 12,000 objects (6 GB) are named in it itself, more in lists (mesh/object_lists.py).
"""

LIST_ROWS_MAX = 3_000
"""Objects of one list (1.5 GB), 37 to 69 bytes each: a record of its usual size."""

ARTIFACT_OBJECTS_MAX = 2_000_000
"""Objects of one artifact (1 TB): their digests are held in memory while it is put, 64 MB."""

BELIEF_S = 600.0
"""How long what was seen in the store is believed to be there. A manifest is written at most this long after each of
its objects was stored or seen: a collector that waits longer between its looks takes nothing that is being named."""

UPLOAD_REFRESH_S = 200.0
"""How often a long upload names what it has sent so far, so that the collector of garbage keeps it: several times in
its usual wait. When the store is nearly full the collector waits less, and a part of an upload may be sent twice."""

CONDEMNED_BYTES_MAX = 64 * 1024 * 1024
"""Lists of the condemned in their stream: some two million names. Every process that uploads holds them in memory."""

STUDIES_BYTES_MAX = 32 * 1024 * 1024
"""Logs of studies in their stream: a trial takes some 10 KB of it."""

STUDIES_AGE_S = 30 * 24 * 3_600.0
"""How long a study can be gone on with."""

STUDY_ENTRIES_MAX = 20_000
"""Entries of one study: some thousand trials, and what every one of them reads before it begins."""

STUDY_ENTRY_BYTES_MAX = 16 * 1024
"""One entry: a drawn value, a point of a learning curve, how a trial ended."""

STUDY_PAGE_ENTRIES_MAX = 256
"""Entries in one answer to a trial: at their largest half of a frame."""

STORE_BYTES_LEAST = 192 * 1024 * 1024
"""A smaller store of the broker has no room for these lists, the least for artifacts, and everything else."""

ARTIFACT_FILES_MAX = 10_000
"""Files of one artifact."""

OUTCOMES_BYTES_MAX = 64 * 1024 * 1024
"""Per-item outcomes of one model on one split: some 2.7 million items."""

STREAKS_PER_WORKER_MAX = 32
"""Executor kinds and versions of which one worker's record keeps a streak: with 64 results to be called back in a few
of them it stays a record of its usual size."""

# -- the agents -------------------------------------------------------------------------------------------------------

HANDLE_ATTEMPTS_MAX = 8
"""Deliveries of one message to an agent before it is set aside as poison."""

INPUTS_PENDING_MAX = 10_000
"""Inputs (commands and beats) that wait for the scheduler's mind; beyond it beats are dropped, they come again."""

FRAME_BYTES_MAX = 8 * 1024 * 1024
"""One frame between a worker and its child."""

CHILD_LOG_LINE_CHARS_MAX = 2_000
"""A line that a child prints is cut here before it reaches the log."""

SERVICE_ANSWER_ROWS_MAX = 500
"""Rows in one answer of `status`, `tasks`, `workers`; more are counted, not listed."""

# -- the broker -------------------------------------------------------------------------------------------------------

STREAM_CONSUMERS_MAX = 5_000
"""Consumers of one stream, said explicitly: without it the server stops at 1,000, and every tail counts."""

KEY_HISTORY_MAX = 64
"""Values kept per key of a bucket: the most that the broker's key-value form allows."""

TOPICS_AGE_S = 30 * 24 * 3_600.0
"""How long a topic can be read again."""

RESULTS_AGE_S = 7 * 24 * 3_600.0
"""How long results stand in their stream; later they follow from the ledger."""

CALL_TIMEOUT_S = 5.0
"""One question to the broker; longer than any pause of a healthy server, shorter than a person's patience."""

WAITING_MESSAGES_MAX = 8_192
"""Messages that wait for one subscription's handler; beyond it the oldest is dropped and counted."""

WAITING_OF_ONE_MAX = 4_096
"""Of them, messages on one subject where a subscription hears many: whoever floods its own leaves half to the others,
and a beat waits behind so many for about a second."""

WAITING_BYTES_MAX = 64 * 1024 * 1024
"""The same bound in bytes, for large messages."""

DISCONNECTS_WAITING_MAX = 4_096
"""Names of closed connections that wait for their reader; a broker that ends more than this at once is restarting."""

HANDLER_END_S = 5.0
"""How long closing a subscription waits for the handler that is running, before it is cancelled."""

UNSENT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes handed to the broker's client and not yet written to the socket; beyond it a publisher waits."""

PING_S = 10.0
"""How often a silent connection is checked: twice in vain, and the client reconnects."""

WATCH_S = 2.0
"""How often we look whether the client still hears: its reader can die while it believes to be connected."""

PONG_S = 4.0
"""Patience with the answer to that look: a half-open connection is found within WATCH_S + PONG_S, and a server that is
held up for a moment is not given up."""

RECONNECT_SILENCE_S_MAX = 60.0
"""An attempt to reconnect without a word for longer hangs: each of its steps has a shorter limit. It is replaced."""

CLOSE_S = 2.0
"""Patience with the client's own closing, after what was published has been flushed."""

RECONNECT_PAUSE_S_MAX = 2.0
"""Longest pause between two attempts to reconnect. Jitter below it keeps a thousand agents from coming at once."""

PULL_MESSAGES_MAX = 256
"""Messages asked of a stream at once; a few hundred already reach the client's full speed."""

PULL_BYTES_MAX = 8 * 1024 * 1024
"""The same in bytes: far below the 64 MiB of unread data at which the server drops a client as too slow."""

PULL_EXPIRES_S = 5.0
"""Life of one request for messages; the server forgets it then, and so do we."""

PULL_HEARTBEAT_S = 1.0
"""The server says this often that a request still waits; three times nothing means that it does not."""

TAIL_CONSUMER_IDLE_S = 30.0
"""The server removes a reader's consumer after this time without a request, should we not have."""

IN_FLIGHT_MAX = 10_000
"""Unacknowledged messages of one durable consumer, over all that share it."""

WAITING_PULLS_MAX = 4_096
"""Requests for messages that may wait at one durable consumer; the server's own default is 512."""

GPU_CONTEXT_BYTES = 640 * 1024 * 1024
"""What a program takes of a GPU beside its tensors (context, kernels, library workspaces): 400 to 600 MiB with CUDA."""
