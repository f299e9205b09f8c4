"""Serve the page on this machine alone."""

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError, os_error

HOST = "127.0.0.1"
PORT = 8175


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # there it lets two servers share a port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a page that was closed while it loaded."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def served(folder: Path, *, port: int | None = None) -> Iterator[str]:
    """Serve a folder in here; yields its address.

    Args:
        port: None: the usual one, or any other where that is taken.

    Raises:
        UserError: the port is taken.
    """
    server = _bound(functools.partial(_Handler, directory=str(folder)), port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(handler: Any, port: int | None) -> _Server:
    try:
        return _Server((HOST, PORT if port is None else port), handler)
    except OSError as error:
        if port is None:
            return _Server((HOST, 0), handler)
        raise UserError(f"port {port} can't be used: {os_error(error)}") from None
