"""A tunnel to a port, as ``ssh -L`` makes one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"


@contextmanager
def tunnel_to(port: int) -> Iterator[int]:
    """Yield another loopback port, whose connections lead to this one."""
    with socket.create_server((HOST, 0)) as entrance:
        threading.Thread(target=_accept, args=(entrance, port), daemon=True).start()
        yield entrance.getsockname()[1]
        entrance.shutdown(socket.SHUT_RDWR)


def _accept(entrance: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            near, _ = entrance.accept()
            far = socket.create_connection((HOST, port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
