"""A collector of OpenTelemetry's, on loopback, that answers as a test says."""

from __future__ import annotations

import http.server
import json
import threading
from itertools import repeat
from typing import Any, Self

__all__ = ["Collector"]


class Collector:
    """Answers each request with the next of these, or all without a fault, and keeps what it was sent."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.got: list[tuple[str, bytes]] = []
        left = iter(answers) if answers else repeat((200, b"{}"))
        got = self.got

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                status, body = next(left)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self) -> list[dict[str, Any]]:
        """Those that it was sent so far, whatever it answered."""
        bodies = [json.loads(body) for _, body in tuple(self.got)]
        scopes = [scope for one in bodies for resource in one["resourceSpans"] for scope in resource["scopeSpans"]]
        return [span for scope in scopes for span in scope["spans"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
