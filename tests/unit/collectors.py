"""A collector of OpenTelemetry's, on loopback, that answers as a test says."""

from __future__ import annotations

import http.server
import threading
from typing import Self

__all__ = ["Collector"]


class Collector:
    """Answers each request with the next of these, and keeps what it was sent."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.got: list[tuple[str, bytes]] = []
        left = iter(answers)
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

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
