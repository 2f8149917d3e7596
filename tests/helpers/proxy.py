"""A TCP proxy on loopback that cuts chosen connections after so many bytes of the answer."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


class CuttingProxy:
    """``cuts[i]``: how many bytes of the i-th connection's answer pass before both are reset."""

    def __init__(self, upstream: tuple[str, int], cuts: Sequence[int]) -> None:
        self.upstream = upstream
        self.cuts = list(cuts)
        self.accepted = 0
        self.cut = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def _start(self, *arguments: object) -> None:
        target, *rest = arguments
        thread = threading.Thread(target=target, args=rest)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.upstream)
            self._sockets += [client, server]
            limit = self.cuts[self.accepted] if self.accepted < len(self.cuts) else None
            self.accepted += 1
            self._start(self._pump, client, server, None)
            self._start(self._pump, server, client, limit)

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed >= limit:
                    self.cut += 1
                    for end in (source, sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        shut_down(end)
                        end.close()
                    return
                sink.sendall(data)
        except OSError:
            pass  # one side was cut, here or by its owner
        shut_down(sink)

    def close(self) -> None:
        shut_down(self.listener)
        self.listener.close()
        for end in self._sockets:
            shut_down(end)
        for thread in self._threads:
            thread.join(5)
        for end in self._sockets:
            end.close()


def shut_down(end: socket.socket) -> None:
    with suppress(OSError):  # already cut
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_proxy(upstream: tuple[str, int], cuts: Sequence[int]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(upstream, cuts)
    proxy._start(proxy.accept)
    try:
        yield proxy
    finally:
        proxy.close()
