"""A stand-in for nsqd 1.3 that runs as its own process and has the real one's manners.

    python -m tests.fakes.nsqd --port 0 --data-path DIR [--mem-queue-size 0] [--msg-timeout 1] ...

It prints `tcp PORT control PORT` when it listens.  Its codec is its own, so that ours and ansq's are
checked against something else.  What it takes over from the real one:

- no requeue when a consumer disconnects: what is in flight waits for its msg_timeout;
- whatever is requeued or times out goes to the tail;
- SIGKILL loses what is in flight, and with `--mem-queue-size` over 0 all that is queued; SIGTERM nothing;
- every error frame but E_FIN_FAILED, E_REQ_FAILED and E_TOUCH_FAILED closes the connection;
- a refused MPUB stores nothing, sizes are not announced, IDENTIFY answers E_BAD_BODY to what it dislikes.

On the control port, one line each, answered by one line of JSON: `stats`, and faults for every client
that is connected: `rst`, `mid-frame` (half a message, then the end), `half-open` (no more is read or said).
"""
