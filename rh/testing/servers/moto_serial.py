"""moto's server, one request at a time: `python -I moto_serial.py HOST PORT`.

moto looks whether an object is there and stores another one in two steps, so of requests that run side by side two may
create one object. Bodies are read before a request has its turn: a client that stalls keeps nobody waiting.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main(host: str, port: int) -> None:
    application = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sent = environ["wsgi.input"]
        length = environ.get("CONTENT_LENGTH")
        if environ.get("wsgi.input_terminated"):
            environ["wsgi.input"] = io.BytesIO(sent.read())
        elif length:
            environ["wsgi.input"] = io.BytesIO(sent.read(int(length)))
        with turn:
            answer: Iterable[bytes] = application(environ, start_response)
            return answer

    run_simple(host, port, serve, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
