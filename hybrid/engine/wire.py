"""How does a worker read and write frames? On a blocking socket, from any of its threads."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time

from hybrid.engine.frames import LENGTH, Frame, pack

MOST_UNSENT = 1_000
"""Frames that may wait for a gateway that does not read; then the model waits as well."""
FULL_LOOK_S = 0.005


class Outbox:
    """Sends frames in their order, from a thread of its own.

    Writing to a socket wakes its reader, which may well be given the very core that writes: the model's thread would
    wait for the gateway to deal with a step before it begins the next one.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to send."""
        threading.Thread(target=self._send_all, name="outbox", daemon=True).start()

    def put(self, frame: Frame) -> None:
        """Let a frame be sent; its contents must not change any more. Any thread may call this."""
        while self._frames.qsize() >= MOST_UNSENT:
            time.sleep(FULL_LOOK_S)
        self._frames.put(frame)

    def _send_all(self) -> None:
        while True:
            send(self._connection, self._frames.get())


def send(connection: socket.socket, frame: Frame) -> None:
    """Send one frame, whole. A gateway that is gone ends the process."""
    try:
        connection.sendall(pack(frame))
    except OSError:
        os._exit(0)  # the gateway is gone, and nobody else wants what this process knows


def receive(connection: socket.socket) -> bytes | None:
    """Read one frame; None when the gateway closed the socket."""
    header = _receive_exactly(connection, LENGTH.size)
    return None if header is None else _receive_exactly(connection, LENGTH.unpack(header)[0])


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = connection.recv(min(size - len(data), 1 << 20))
        except OSError:
            return None
        if not chunk:
            return None
        data += chunk
    return bytes(data)
