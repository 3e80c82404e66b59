"""Servers of others on real sockets: they keep what they are asked, and answer as a test says."""

import contextlib
import json
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOOPBACK = ("127.0.0.0/8",)


class Handler(BaseHTTPRequestHandler):
    """Takes one request off the socket, and has the server's `answer` for it."""

    timeout = 5

    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = types.SimpleNamespace(
            method=self.command,
            path=self.path,
            headers=self.headers,
            json=json.loads(body) if body else None,
        )
        self.server.asked.append(request)
        status, content, *headers = self.server.answer(request)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)

    do_GET = do_POST = respond

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def neighbour(answer):
    """A server that listens at its `url`; `answer` gives status, JSON or bytes, and headers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.answer, server.asked = False, answer, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
