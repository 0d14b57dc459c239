"""A chat-completion server on 127.0.0.1 that answers, and fails, as it is told; and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handler = BaseHTTPRequestHandler
Action = Callable[[Handler], None]


def send(body: bytes | str, status: int = 200, length: int | None = None, **headers: str) -> Action:
    """Any response; with `length`, one that promises another number of bytes than it has."""

    def act(handler: Handler) -> None:
        data = body if isinstance(body, bytes) else body.encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return act


def completion(content: Any, finish: str | None = "stop", **message: Any) -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 9, "completion_tokens": 7}
    return json.dumps({"id": "c", "model": "stub-1", "system_fingerprint": "fp", "choices": [choice], "usage": usage})


def reply(content: Any, finish: str | None = "stop", **message: Any) -> Action:
    return send(completion(content, finish, **message), Content_Type="application/json")


def error(status: int, message: str, **headers: str) -> Action:
    return send(json.dumps({"error": {"message": message, "type": "stub"}}), status, **headers)


def stall(seconds: float, then: Action | None = None) -> Action:
    def act(handler: Handler) -> None:
        time.sleep(seconds)
        if then is not None:
            then(handler)

    return act


def cut(content: str) -> Action:
    """Half of a completion, of which the whole was promised."""
    whole = completion(content)
    return send(whole[: len(whole) // 2], length=len(whole))


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


@dataclass
class Asked:
    """One request: its body, which try of the same body it is, its headers, when it came."""

    body: dict[str, Any]
    attempt: int
    headers: dict[str, str]
    at: float

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class Stub:
    """Begins to serve when it is entered.

    Args:
        behave: what to do with a request.
    """

    behave: Callable[[Asked], Action]
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Stub:
        stub, tries, lock = self, Counter[str](), threading.Lock()

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    tries[raw.decode()] += 1
                    asked = Asked(json.loads(raw), tries[raw.decode()], dict(self.headers), time.monotonic())
                    stub.asked.append(asked)
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked has been killed, or waits no longer
                    stub.behave(asked)(self)

            def log_message(self, *words: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *about: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
