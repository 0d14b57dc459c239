"""Asking an OpenAI-compatible server (vLLM, llama.cpp, a provider): conversations → replies, many at a time.

A reply that does not come (no connection, silence, an overloaded server, half an answer, no JSON) is asked for again,
after a pause that doubles each time, or that the server names. What would fail again in the same way (a key that is not
accepted, an address that does not exist) stops the run with what the server says. The key is sent and never shown: an
error names no header, and wherever a server repeats the key it is taken out.
"""

from __future__ import annotations

import http.client
import json
import queue
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from stepjepa.data.fields import content_text
from stepjepa.records import UserError

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, between two tries
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is asked again another day
LARGEST = 2**26  # bytes of an answer
SHORTEST_SECRET = 8  # `EMPTY`, `none` and `x` are what a server without a key is given, and words of a text
_BUSY = {408, 409, 425, 429}  # and 500 to 599
_BROKEN_OFF = {"abort", "aborted", "cancelled", "canceled", "error"}  # not by the model
_REFUSED = {400, 413, 422}  # this request; others may be answered

End = Literal["stopped", "truncated", "filtered", "refused", "failed"]


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    `end` says how: the model ended its turn, was cut off, or a filter cut in; or the server refused the request, or
    gave no answer however often it was asked, and `text` is the reason.
    """

    text: str
    end: End
    thoughts: str | None = None
    tokens: int | None = None
    model: str | None = None
    """As the server calls it, with its version where it tells one."""

    @property
    def is_answer(self) -> bool:
        """Whether a model said it."""
        return self.end not in ("refused", "failed")


class _AgainError(Exception):
    """Worth another try; `pause` in seconds, if the server named one."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The library would send the key on to wherever it is led."""

    def redirect_request(self, *about: Any) -> None:
        return None


class Server:
    """A server and how it is asked.

    Args:
        base_url: up to `/v1`; `/chat/completions` is added.
        model: the server's name for it.
        key: sent as a bearer token; None for a server that wants none.
        concurrency: requests under way at the same time.
        requests_per_minute: begun, all together; None for no limit.
        timeout: seconds of silence, and for a whole answer, after which it is asked again.
        retries: how often it is asked again.
        fields: further fields of each request; None takes a field out.

    Raises:
        UserError: an address or a key that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str | None = None,
        *,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        timeout: float = 600.0,
        retries: int = 6,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(f"--base_url {base_url}: an address such as http://127.0.0.1:8000/v1 is needed")
        if "@" in address.netloc or address.query or address.fragment:
            raise UserError("--base_url: an address without user, password, `?` and `#` is needed; it is written down")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key and key):
            raise UserError("the key is empty or holds characters that no key has, such as a line end")
        self.base_url = base_url.rstrip("/")
        self.model, self.concurrency, self.timeout, self.retries = model, concurrency, timeout, retries
        self.fields = dict(fields or {})
        self.asked_again = 0
        """How many requests were asked another time."""
        self._key = key
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        # A proxy of the network knows no server on this machine.
        proxies: dict[str, str] | None = {} if address.hostname in ("localhost", "127.0.0.1", "::1") else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect())
        self._interval = 60 / requests_per_minute if requests_per_minute else 0.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._next = 0.0  # when the next request may begin
        self._is_there = False

    def ask_all(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Reply]]:
        """Ask all, as many at a time as may be; index and reply of each, as they come.

        Args:
            requests: the fields of each: `messages` and how to sample.

        Raises:
            UserError: the server cannot be used.
        """
        waiting = iter(enumerate(requests))
        replies: queue.SimpleQueue[tuple[int, Reply] | BaseException] = queue.SimpleQueue()
        self._stop.clear()

        def work() -> None:
            try:
                while not self._stop.is_set():
                    with self._lock:
                        number, request = next(waiting, (None, None))
                    if number is None or request is None:
                        return
                    replies.put((number, self.ask(request)))
            except BaseException as error:  # raised where it is waited for
                replies.put(error)

        for _ in range(min(self.concurrency, len(requests))):
            # Ctrl-C does not wait for the answers that are under way.
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in requests:
                reply = replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
        finally:
            self._stop.set()

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """One reply, asked for again as long as there is hope.

        Raises:
            UserError: the server cannot be used.
        """
        fields = {"model": self.model, **request, **self.fields}
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                self.asked_again += 1
            self._wait_for_turn()
            try:
                reply = self._post(body)
            except _AgainError as error:
                reason = str(error)
                if error.pause is not None:  # the server says so to all
                    with self._lock:
                        self._next = max(self._next, time.monotonic() + error.pause)
                if attempt < self.retries:
                    self._stop.wait(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1))
            else:
                self._is_there = True
                return reply
            if self._stop.is_set():
                break
        return Reply(reason, "failed")

    def _wait_for_turn(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        self._stop.wait(max(0.0, turn - time.monotonic()))

    def _post(self, body: bytes) -> Reply:
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, self._headers)
        end = time.monotonic() + self.timeout
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                answer = bytearray()
                while block := response.read1(2**16):
                    answer += block
                    if len(answer) > LARGEST or time.monotonic() > end:
                        raise _AgainError("an answer without end")
        except urllib.error.HTTPError as error:
            return self._not_answered(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ConnectionRefusedError | socket.gaierror) and not self._is_there:
                raise UserError(f"--base_url {self.base_url}: nothing answers there: {reason}") from error
            silent = isinstance(reason, TimeoutError)
            said = f"no answer within {self.timeout:g} seconds" if silent else f"{type(reason).__name__}: {reason}"
            raise _AgainError(self._clean(f"the connection broke: {said}")) from error
        return self._read(bytes(answer))

    def _read(self, answer: bytes) -> Reply:
        try:
            document = json.loads(answer)
            if isinstance(document, dict) and document.get("error"):  # under status 200, as routers do
                raise _AgainError(self._said(answer))
            choice = document["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason")
            content, usage = message.get("content"), document.get("usage") or {}
            text = content_text(content or "")
            thoughts = message.get("reasoning_content") or message.get("reasoning")
            tokens = usage.get("completion_tokens")
            names = [document.get(name) for name in ("model", "system_fingerprint")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise _AgainError(f"the answer is no chat completion: {self._said(answer)}") from error
        if text is None:
            raise _AgainError("the answer is something other than text")
        if finish in _BROKEN_OFF:
            raise _AgainError(f"the server broke the answer off: {finish}")
        end: End = "truncated" if finish == "length" else "filtered" if finish == "content_filter" else "stopped"
        return Reply(
            self._clean(text),
            end,
            self._clean(thoughts) if isinstance(thoughts, str) and thoughts.strip() else None,
            tokens if isinstance(tokens, int) else None,
            self._clean(" ".join(name for name in names if isinstance(name, str))) or None,
        )

    def _not_answered(self, error: urllib.error.HTTPError) -> Reply:
        """A reply for a request that the server refuses.

        Raises:
            _AgainError: it may answer later.
            UserError: it will not answer anything.
        """
        status = error.code
        try:
            said = self._said(error.read(2**16))
        except (OSError, http.client.HTTPException):
            said = "nothing more"
        reason = f"status {status}: {said}"
        if status in _REFUSED:
            return Reply(reason, "refused")
        if status in _BUSY or status >= 500:
            pause = _seconds(error.headers.get("Retry-After"))
            if pause is not None and pause > LONGEST_WAIT:
                raise UserError(f"{self.base_url} asks to wait for {pause:,.0f} seconds ({reason}); go on then")
            raise _AgainError(reason, pause)
        if 300 <= status < 400:
            to = self._clean(str(error.headers.get("Location")))
            raise UserError(f"--base_url {self.base_url} leads on to {to}; name that address, the key is not sent on")
        advice = "; --key_variable names the environment variable with the key" if status in (401, 403) else ""
        raise UserError(f"--base_url {self.base_url} does not answer: {reason}{advice}")

    def _said(self, answer: bytes) -> str:
        """What a server says is wrong, in a few words."""
        text = answer.decode("utf-8", "replace")
        try:
            document = json.loads(text)
            error = document["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        text = " ".join(self._clean(text).split())
        return text if len(text) <= 200 else text[:200] + " …"

    def _clean(self, text: str) -> str:
        """A text of the server without the key."""
        is_secret = self._key is not None and len(self._key) >= SHORTEST_SECRET
        return text.replace(self._key, "[key]") if is_secret and self._key else text


def _seconds(retry_after: str | None) -> float | None:
    """`2`, `0.5` or `Wed, 21 Oct 2026 07:28:00 GMT` → seconds from now; None where nothing is named."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
