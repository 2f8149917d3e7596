"""The inside of an island: run by `tests.helpers.island` in namespaces of its own.

Every address is this machine's, `NameServer` is the only name server, one site answers at every
address, and whatever is dialled is seen on the wire. Commands come as lines of JSON on stdin, and
answers go as such to stdout; the end of stdin is the end of it all.
"""

import json
import socket
import struct
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

import h11
import trio

from tests.helpers.island_names import OWN_DOMAIN, NameServer
from tests.helpers.origin import article
from tests.helpers.raw import open_crawl
from tests.helpers.servers import open_server

NAME_SERVER: Final = "127.0.0.53"
_SETUP: Final = (
    "ip link set lo up",
    "ip route add local 0.0.0.0/0 dev lo",
    "ip -6 route add local ::/0 dev lo",
)
_FILES: Final = {
    "/etc/resolv.conf": (
        f"nameserver {NAME_SERVER}\nsearch {OWN_DOMAIN}\noptions ndots:5 timeout:5 attempts:1\n"
    ),
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h: on loopback each packet is seen twice
_SOL_PACKET, _PACKET_STATISTICS = 263, 6


def set_up(folder: Path) -> None:
    for line in _SETUP:
        subprocess.run(line.split(), check=True, capture_output=True, text=True)
    for path, text in _FILES.items():
        if Path(path).exists():
            ours = folder / Path(path).name
            ours.write_text(text)
            subprocess.run(
                ["mount", "--bind", str(ours), path], check=True, capture_output=True, text=True
            )


class Wire:
    """What goes over the loopback interface: connections asked for, and datagrams."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind(("lo", 0))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 2**20)
        self.socket.setblocking(False)

    def read(self) -> list[tuple[str, int]]:
        """Where connections, or datagrams but those of names, were sent to since the last call."""
        found = []
        while True:
            try:
                packet, (_, _, kind, *_) = self.socket.recvfrom(65536)
            except BlockingIOError:
                break
            if kind == _PACKET_OUTGOING and (target := _target(packet[14:])) is not None:
                found.append(target)
        _, dropped = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert not dropped, f"{dropped} packets were not seen"
        return found


def _target(packet: bytes) -> tuple[str, int] | None:
    if packet[0] >> 4 == 4:
        protocol, rest = packet[9], packet[(packet[0] & 15) * 4 :]
        address: IPv4Address | IPv6Address = IPv4Address(packet[16:20])
    else:
        protocol, rest = packet[6], packet[40:]
        address = IPv6Address(packet[24:40])
    if protocol not in (6, 17):
        return None
    source, port = struct.unpack_from("!HH", rest)
    if protocol == 6 and rest[13] & 0x12 != 0x02:  # SYN without ACK
        return None
    if protocol == 17 and 53 in (source, port):
        return None
    return str(address), port


async def serve_names(server: NameServer) -> None:
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await sock.bind((NAME_SERVER, 53))

    async def send(data: bytes, peer: Any, delay: float) -> None:
        await trio.sleep(delay)
        await sock.sendto(data, peer)

    async with trio.open_nursery() as nursery:
        while True:
            message, peer = await sock.recvfrom(4096)
            data, delay = server.answer(message)
            nursery.start_soon(send, data, peer, delay)


async def serve_site(stream: trio.SocketStream) -> None:
    """One request, one answer: a page, or as its path says. Then the connection ends."""
    wire = h11.Connection(h11.SERVER)
    try:
        while not isinstance(event := wire.next_event(), h11.Request):
            if event is not h11.NEED_DATA:
                return
            wire.receive_data(await stream.receive_some(65536))
        host = dict(event.headers).get(b"host", b"").decode()
        status, fields, body = _page(host, event.target.decode())
        fields += [("Content-Length", str(len(body))), ("Connection", "close")]
        head = wire.send(h11.Response(status_code=status, headers=fields))
        await stream.send_all(
            (head or b"")
            + (wire.send(h11.Data(data=body)) or b"")
            + (wire.send(h11.EndOfMessage()) or b"")
        )
        await stream.send_eof()
        while await stream.receive_some(4096):
            pass
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        pass  # it left, or speaks TLS
    finally:
        await trio.aclose_forcefully(stream)


def _page(host: str, target: str) -> tuple[int, list[tuple[str, Any]], bytes]:
    split = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(split.query))
    html: list[tuple[str, Any]] = [("Content-Type", "text/html; charset=utf-8")]
    if split.path == "/robots.txt":
        if not host.startswith("robots-"):
            return 404, html, b""
        # ``robots-<hexadecimal of a URL>``, in labels of up to 60 digits.
        digits = "".join(host.removesuffix(".example").removeprefix("robots-").split("."))
        return 301, [("Location", bytes.fromhex(digits))], b""
    if split.path.startswith("/go/"):
        return int(split.path[4:]), [("Location", query["to"].encode())], b""
    if split.path == "/refresh":
        return 200, html, _with_refresh(query["to"])
    if split.path == "/script":
        return 200, html, _with_script(query["to"].split())
    return 200, html, article(host)


def _with_refresh(to: str) -> bytes:
    tag = f'<meta http-equiv="refresh" content="0; url={to}"></head>'
    return article("refresh").replace(b"</head>", tag.encode())


def _with_script(targets: Iterable[str]) -> bytes:
    """A page whose script asks for all of these in every way that a page has.

    It says so (``#said``) when the last one was reached, and the others have had their time.
    """
    script = """
        <div id="root"></div><script>
        const targets = %s;
        const hidden = document.createElement("div");
        hidden.style.display = "none";
        document.body.append(hidden);
        const add = (name, attributes) =>
            hidden.append(Object.assign(document.createElement(name), attributes));
        const tries = targets.map(async (to) => {
            add("img", {src: to + "?img"});
            add("iframe", {src: to + "?frame"});
            add("link", {rel: "stylesheet", href: to + "?style"});
            add("link", {rel: "preconnect", href: to});
            add("link", {rel: "dns-prefetch", href: to});
            add("link", {rel: "prefetch", href: to + "?prefetch"});
            try { new WebSocket(to.replace("http", "ws")); } catch (error) { }
            try { navigator.sendBeacon(to + "?beacon", "x"); } catch (error) { }
            try { new EventSource(to + "?events"); } catch (error) { }
            try {
                const peer = new RTCPeerConnection({
                    iceServers: [{urls: "stun:" + new URL(to).host + ":3478"}]
                });
                peer.createDataChannel("x");
                await peer.setLocalDescription(await peer.createOffer());
            } catch (error) { }
            try { await fetch(to + "?fetch", {mode: "no-cors"}); } catch (error) { }
        });
        const all = Promise.allSettled(tries);
        const late = new Promise((done) => setTimeout(done, 5000));
        const last = fetch(targets.at(-1) + "?last", {mode: "no-cors"});
        Promise.all([Promise.race([all, late]), last]).then(() => {
            const said = document.createElement("article");
            said.id = "said";
            said.innerHTML =
                "<h1>Tried</h1>" + "<p>The script has tried every target. </p>".repeat(20);
            document.body.append(said);
        });
        </script>""" % json.dumps(list(targets))  # noqa: UP031  # braces
    return f"<!DOCTYPE html><html><title>Tries</title><body>{script}</body></html>".encode()


def obey(server_address: tuple[str, int], command: dict[str, Any]) -> list[dict[str, Any]]:
    """Crawl, and tell of each URL how it ended."""
    found = []
    with open_crawl(server_address, command["urls"], command["options"]) as stream:
        if stream.status != 200:
            return [{"refused": stream.status}]
        for event in stream.read_events():
            if event.kind == "result":
                error = event.data["error"]
                text = json.dumps(event.data["result"]["document"])
                how = event.data["pipeline_metadata"]
                one = {"index": event.data["index"], "error": error, "text": text, "how": how}
                found.append(one)
    return sorted(found, key=lambda one: one["index"])


async def main(folder: Path, ports: list[int], settings: dict[str, str]) -> None:
    set_up(folder)
    names, wire = NameServer(), Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_names, names)
        for port in ports:
            sock = socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
            )
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
            nursery.start_soon(trio.serve_listeners, serve_site, [listener])
        await trio.to_thread.run_sync(partial(converse, names, wire, settings))
        nursery.cancel_scope.cancel()


def converse(names: NameServer, wire: Wire, settings: dict[str, str]) -> None:
    """Serve commands until there are no more, with a server that has these settings."""
    with open_server("native", settings) as server:
        print(json.dumps({"ready": server.base_url}), flush=True)
        for line in sys.stdin:
            wire.read()
            names.asked.clear()
            results = obey(server.address, json.loads(line))
            dialled = [target for target in wire.read() if target != server.address]
            answer = {"results": results, "dialled": dialled, "asked": names.asked}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
