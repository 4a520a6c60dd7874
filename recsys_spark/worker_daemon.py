"""PySpark's daemon of Python workers, in which a worker that Spark wants no more of ends without a word.

A job that needs only some of a worker's rows hangs up on it, as in ``limit``, and so does a session that ends. The
worker then has nobody to answer to, and PySpark prints a trace of that, as if something had failed. Errors of a task go
to Spark as ever.
"""

from __future__ import annotations

import socket

from pyspark import daemon

_serve = daemon.worker


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Serve one task, in a process of its own; return 0 if the process may serve another."""
    try:
        return _serve(sock, authenticated)
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    daemon.worker = worker
    daemon.manager()
