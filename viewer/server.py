"""Opens and closes a viser server: on a free port, without its banner, and never longer than some seconds.

viser looks for a free port itself, but by trying a thousand, and waits for ever where there is none (a host
that is not this machine's); so the port is found here first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import warnings
from typing import TYPE_CHECKING, Any

from errors import UserError
from viewer.faults import Faults, in_time

if TYPE_CHECKING:
    import viser

PORTS = 50  # tried from the one asked for
_OPENING_S = 60.0  # far more than it takes (under a second): only so that nothing waits for ever
_CLOSING_S = 3.0


class ViewerError(UserError):
    """The viewer cannot be opened as asked."""


def open_server(host: str, port: int, title: str, faults: Faults) -> viser.ViserServer:
    """A server at the first free port from `port` on.

    Args:
        host: "localhost", or an address of this machine; "0.0.0.0" is all of them.
        port: 1 to 65535.
        title: above the controls.
        faults: hears of what browsers do wrong.

    Raises:
        ViewerError: viser is not installed, the host is not this machine's, or no port is free.
        TimeoutError: it does not come up.
    """
    try:
        import rich
        import viser
    except ImportError as error:
        raise ViewerError(
            f"the viewer needs viser, which cannot be imported ({error}): pip install viser"
        ) from error
    rich.get_console().quiet = True  # viser prints a banner on opening and a line on closing
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # tracebacks of broken handshakes
    # of a browser that leaves while something is being sent to it
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    address = "127.0.0.1" if host == "localhost" else host
    free = free_port(address, port)
    server = in_time(
        lambda: viser.ViserServer(host=address, port=free, label=title, verbose=False),
        _OPENING_S,
        "opening the server",
    )

    def hear(loop: Any, context: dict[str, Any]) -> None:
        faults.mention(context.get("exception") or RuntimeError(context.get("message", "in its thread")))

    # a tunnel through a server of viser's makers, at a browser's wish: not from here
    server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
    loop = server.get_event_loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, hear)
    return server


def close_server(server: viser.ViserServer) -> None:
    """Closes it, and waits for that a few seconds at most: a browser may be slow to say goodbye."""
    try:
        in_time(server.stop, _CLOSING_S, "closing the server")
    except Exception:  # nothing depends on it: its threads end with the program
        logging.getLogger(__name__).debug("viewer", exc_info=True)


def url_of(host: str, port: int) -> str:
    """The address to give to a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def where(url: str, port: int) -> str:
    """The line that says where the viewer is, and that its port is another one than was asked for."""
    another = "" if url.endswith(f":{port}") else f" (port {port} is taken)"
    return f"viewer: {url}{another}"


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens at.

    Raises:
        ViewerError: there is none, or the host is not this machine's.
    """
    if not 1 <= port <= 65535:
        raise ViewerError(f"viewer port {port}: expected 1 to 65535: choose another")
    for candidate in range(port, min(port + PORTS, 65536)):
        try:
            taken = _is_taken(host, candidate)
        except (OSError, UnicodeError) as error:
            raise ViewerError(
                f"viewer host {host!r}: cannot be listened at ({error}): give localhost, or 0.0.0.0 for "
                "every address of this machine"
            ) from error
        if not taken:
            return candidate
    raise ViewerError(f"viewer port {port}: it and the {PORTS - 1} after it are taken: choose another")


def _is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there.

    Raises:
        OSError: nobody can, for another reason.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return True
                raise
    # "localhost" in a browser may mean the other protocol's address, at which another program may listen
    if host == "127.0.0.1" and socket.has_ipv6:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("::1", port)) == 0
    return False
