"""Clients that send the same requests again and again, as fast as they are answered, from a process
of their own."""

import contextlib
import multiprocessing
import selectors

from harness.resp import Client, ConnectionLost


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Flood:
    """`requests` is what each connection sends at a time, again once all of it was answered. Each
    reply must be one line. A connection that the server closes is made anew."""

    def __init__(self, port, project, connections, requests):
        self.arguments = (port, project, connections, requests)
        self.context = multiprocessing.get_context("spawn")  # the test may have threads
        self.answered = self.context.Value("q", 0)

    def replies(self):
        """So far, of all runs."""
        return self.answered.value

    @contextlib.contextmanager
    def running(self):
        stop = self.context.Event()
        process = self.context.Process(target=_run, args=(*self.arguments, stop, self.answered), daemon=True)
        process.start()
        try:
            yield self
        finally:
            stop.set()
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()


class _Connection:
    def __init__(self, port, project):
        self.socket = Client(port, project).socket
        self.socket.setblocking(False)
        self.sent = 0
        self.replies = 0


def _expected(requests):
    """How many requests stand in there: each begins as an array."""
    return max(1, requests.count(b"\r\n*") + 1)


def _run(port, project, connections, requests, stop, answered):
    selector = selectors.DefaultSelector()
    expected = _expected(requests)
    both = selectors.EVENT_READ | selectors.EVENT_WRITE

    def dial():
        with contextlib.suppress(ConnectionLost):
            connection = _Connection(port, project)
            selector.register(connection.socket, both, connection)

    for _ in range(connections):
        dial()
    while not stop.is_set():
        for key, events in selector.select(0.05):
            connection = key.data
            try:
                _step(selector, connection, events, requests, expected, answered)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(connection.socket)
                connection.socket.close()
                dial()


def _step(selector, connection, events, requests, expected, answered):
    if events & selectors.EVENT_WRITE:
        connection.sent += connection.socket.send(memoryview(requests)[connection.sent :])
        if connection.sent == len(requests):
            selector.modify(connection.socket, selectors.EVENT_READ, connection)
    if events & selectors.EVENT_READ:
        data = connection.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        replies = data.count(b"\n")
        connection.replies += replies
        with answered.get_lock():
            answered.value += replies
        if connection.replies >= expected and connection.sent == len(requests):
            connection.replies = 0
            connection.sent = 0
            selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
