"""How does a worker read and write frames? On a blocking socket, from any of its threads."""

from __future__ import annotations

import os
import socket
import threading

from hybrid.engine.frames import LENGTH, Frame, pack


def send(connection: socket.socket, lock: threading.Lock, frame: Frame) -> None:
    """Send one frame, whole. A gateway that is gone ends the process."""
    with lock:
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
