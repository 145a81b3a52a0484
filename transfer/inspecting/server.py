"""The server behind `transfer inspect --web`: for this machine alone, and there for whoever knows the token."""

from __future__ import annotations

import hmac
import json
import secrets
import sys
import threading
import webbrowser
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Self

from transfer.errors import TransferError
from transfer.inspecting.pages import Pages

HOST = "127.0.0.1"
LARGEST = 1 << 20  # bytes that a question may have
PATIENCE = 30  # seconds that a connection may stand still
ASSETS = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
QUESTIONS = ("places", "count")
MISSING_SLASH = "/"  # in place of a path: an address that was copied without its end
# Everything comes from this server, nothing is framed, sent elsewhere or kept.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server:
    """Serves `Pages` on 127.0.0.1, on a port that is free, under a token that is drawn anew; a context manager.

    with Server(pages) as server:
        print(server.address)
        server.serve()       # until ctrl-C
    """

    def __init__(self, pages: Pages) -> None:
        self.token = secrets.token_urlsafe(24)
        assets = {path: (_read(file), kind) for path, (file, kind) in ASSETS.items()}
        handler = type("Handler", (_Handler,), {"pages": pages, "token": self.token, "assets": assets})
        self._server = _Threads((HOST, 0), handler)
        self.port: int = self._server.server_address[1]

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def serve(self) -> None:
        """Answer until ctrl-C, or until `stop` is called from another thread."""
        try:
            self._server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return

    def stop(self) -> None:
        """End `serve`."""
        self._server.shutdown()

    def open_browser(self) -> None:
        """Show the page in a browser with a window; one that would take over the terminal is not started."""
        try:
            browser = webbrowser.get()
        except webbrowser.Error:
            return
        if type(browser) is not webbrowser.GenericBrowser:
            threading.Thread(target=browser.open, args=(self.address,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.server_close()


def _read(file: str) -> bytes:
    return files("transfer.inspecting").joinpath(file).read_bytes()


class _Threads(ThreadingHTTPServer):
    """A thread for each connection; one that is left open does not keep the process."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is a browser that did not wait for its answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request. What does not know the token, or was sent to another name, learns nothing but 403."""

    pages: Pages
    token: str
    assets: Mapping[str, tuple[bytes, str]]

    timeout = PATIENCE
    server_version = "transfer"
    sys_version = ""

    def do_GET(self) -> None:
        path = self._path()
        if path is None:
            self._say(403, {"error": "forbidden"})
        elif path == MISSING_SLASH:
            self._send(308, b"", "text/plain", {"Location": f"/{self.token}/"})
        elif path in self.assets:
            body, kind = self.assets[path]
            self._send(200, body, kind)
        elif path == "begin":
            self._answer(self.pages.begin)
        elif path in QUESTIONS:
            self._say(405, {"error": "asked by POST"})
        else:
            self._say(404, {"error": "no such page"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = self._path()
        if path is None or not self._same_origin():
            self._say(403, {"error": "forbidden"})
        elif path not in QUESTIONS:
            self._say(404, {"error": "no such page"})
        elif self.headers.get_content_type() != "application/json":
            self._say(415, {"error": "questions are JSON"})
        else:
            asked = self._body()
            if asked is not None:
                self._answer(lambda: self.pages.answer(path, asked))

    def _path(self) -> str | None:
        """What follows the token; None for another token or another host than this one (a rebound name, say)."""
        token, slash, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        hosts = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]  # type: ignore[attr-defined]
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
        if not known or self.headers.get_all("Host") not in [[host] for host in hosts]:
            return None
        return rest if slash else MISSING_SLASH

    def _same_origin(self) -> bool:
        """Whether the page itself asks, where the browser says who does."""
        return self.headers.get("Origin", f"http://{self.headers['Host']}") == f"http://{self.headers['Host']}"

    def _body(self) -> Mapping[str, Any] | None:
        """The question; None where it was refused."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._say(411, {"error": "the length is missing"})
            return None
        if int(length) > LARGEST:
            self._say(413, {"error": "the question is too long"})
            return None
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            self._say(400, {"error": "the question is no JSON object"})
            return None
        return asked

    def _answer(self, ask: Any) -> None:
        try:
            found = ask()
        except TransferError as error:
            self._say(400, {"error": error.asked, "found": error.found, "hint": error.hint})
            return
        self._say(200, found)

    def _say(self, status: int, document: Any) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a log would hold the token."""
