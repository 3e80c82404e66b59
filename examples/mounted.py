"""Mount the register in another WSGI application: here under /register, beside a page of its own.

    python examples/mounted.py                      # then open http://127.0.0.1:8000/

`NovantraLite` is a WSGI application, so anything that routes by path can hold it: the dispatcher
below, or werkzeug's DispatcherMiddleware beside Flask or Django. Whoever mounts it calls `start()`,
which delivers webhooks from a thread, and `close()`. One process opens a file at a time: run one
worker with threads. NOVANTRA_LITE_DATABASE names the file (without it, the register ends with the
process), PORT the port (default 8000; 0 picks a free one).
"""

import os
import signal
from wsgiref.util import shift_path_info

from waitress import create_server

from novantra_lite import NovantraLite

lite = NovantraLite(os.environ.get("NOVANTRA_LITE_DATABASE", ""))


def own_page(environ, start_response):
    """The application that was there before."""
    count = sum(1 for _ in lite.collection("findings").list(status="open"))
    body = f"Open findings: {count}. The register is at /register/docs.\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def application(environ, start_response):
    """Hand whatever is below /register to the register."""
    if environ["PATH_INFO"].split("/")[1] == "register":
        shift_path_info(environ)
        return lite(environ, start_response)
    return own_page(environ, start_response)


def stop(*_):
    raise SystemExit


if __name__ == "__main__":
    server = create_server(application, listen=f"127.0.0.1:{os.environ.get('PORT', '8000')}")
    signal.signal(signal.SIGTERM, stop)
    lite.start()
    try:
        print(f"Listening at http://127.0.0.1:{server.effective_port}/", flush=True)
        server.run()
    finally:
        server.close()
        lite.close()
