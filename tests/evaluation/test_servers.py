"""Servers as they are: they answer in several forms, fail in many ways, and may never see or show a key unasked."""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate
from itertools import pairwise

import pytest
from stub_server import Stub, completion, cut, error, hang_up, reply, send, stall

from stepjepa.evaluation import servers
from stepjepa.evaluation.servers import Reply, Server
from stepjepa.records import UserError

KEY = "sk-very-secret-0123456789"
REQUEST = {"messages": [{"role": "user", "content": "1 + 1?"}], "temperature": 0.5, "seed": 3}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)


def ask(stub: Stub, **options) -> Reply:
    return Server(stub.url, "m", **{"timeout": 1.0, **options}).ask(REQUEST)


# -------- answers --------


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (reply("2"), Reply("2", "stopped", None, 7, "stub-1 fp")),
        (reply("2", finish=None), Reply("2", "stopped", None, 7, "stub-1 fp")),
        (reply("So", finish="length"), Reply("So", "truncated", None, 7, "stub-1 fp")),
        (reply("", finish="content_filter"), Reply("", "filtered", None, 7, "stub-1 fp")),
        (reply("2", reasoning_content="It is"), Reply("2", "stopped", "It is", 7, "stub-1 fp")),
        (reply("2", reasoning="It is"), Reply("2", "stopped", "It is", 7, "stub-1 fp")),
        (reply(None, finish="length", reasoning="It"), Reply("", "truncated", "It", 7, "stub-1 fp")),
        (reply([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), Reply("a\n\nb", "stopped", None, 7, "stub-1 fp")),
        (send('{"choices": [{"message": {"content": "2"}}]}'), Reply("2", "stopped")),
        (stall(0.2, reply("late")), Reply("late", "stopped", None, 7, "stub-1 fp")),
    ],
)  # fmt: skip
def test_forms_of_an_answer(action, expected):
    with Stub(lambda asked: action) as stub:
        assert ask(stub) == expected
        assert len(stub.asked) == 1


def test_what_is_sent():
    with Stub(lambda asked: reply("2")) as stub:
        ask(stub, key=KEY, fields={"top_k": 20, "seed": None})
        ask(stub)
        first, second = stub.asked
    assert first.body == {"model": "m", "messages": REQUEST["messages"], "temperature": 0.5, "top_k": 20}
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert second.body["seed"] == 3
    assert "Authorization" not in second.headers


# -------- failures --------

FAILURES = {
    "500": error(500, "out of memory"),
    "overloaded": error(529, "overloaded"),
    "too many": error(429, "slow down", Retry_After="0.05"),
    "an html page": send("<html>502 Bad Gateway</html>", 502),
    "silence": stall(1.5),
    "half an answer": cut("the answer is 2, and that is all there is to say about it"),
    "garbage": send(b"\xff\xfe\x00garbage"),
    "no JSON under 200": send("<html>maintenance</html>"),
    "JSON of another kind": send('{"object": "list", "data": []}'),
    "no choices": send('{"choices": []}'),
    "no message": send('{"choices": [{"text": "2"}]}'),
    "a list": send("[1, 2]"),
    "nothing": send(""),
    "deep": send("[" * 100_000),
    "an error under 200": send('{"error": {"message": "provider is down", "code": 502}}'),
    "an image": reply([{"type": "image_url", "image_url": {}}]),
    "hung up": hang_up,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_asked_again_and_the_answer_taken(failure):
    with Stub(lambda asked: FAILURES[failure] if asked.attempt < 3 else reply("2")) as stub:
        server = Server(stub.url, "m", timeout=1.0)
        assert server.ask(REQUEST).text == "2"
        assert [asked.attempt for asked in stub.asked] == [1, 2, 3]
        assert server.asked_again == 2


def test_after_all_retries_the_reason_is_told():
    with Stub(lambda asked: error(503, "loading the model")) as stub:
        assert ask(stub, retries=2) == Reply("status 503: loading the model", "failed")
        assert len(stub.asked) == 3


def test_pauses_double(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.1)
    with Stub(lambda asked: error(500, "no")) as stub:
        ask(stub, retries=3)
        times = [asked.at for asked in stub.asked]
    for n, (one, other) in enumerate(pairwise(times)):
        assert 0.05 * 2**n <= other - one  # half of the pause is drawn; the upper end is the machine's


def test_a_date_to_retry_after_is_waited_for():
    for header in ("0.5", formatdate(time.time() + 2, usegmt=True)):  # dates have whole seconds
        with Stub(
            lambda asked, to=header: error(429, "slow", Retry_After=to) if asked.attempt == 1 else reply("2")
        ) as stub:
            ask(stub)
            first, second = stub.asked
        assert second.at - first.at >= 0.45


def test_a_pause_holds_for_all_requests():
    with Stub(lambda asked: error(429, "slow", Retry_After="0.6") if len(stub.asked) == 1 else reply("2")) as stub:
        replies = list(Server(stub.url, "m", concurrency=1, timeout=5).ask_all([{"messages": [n]} for n in range(2)]))
    assert [asked.at - stub.asked[0].at >= 0.55 for asked in stub.asked] == [False, True, True]
    assert len(replies) == 2


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            error(401, f"Incorrect API key provided: {KEY}"),
            r"status 401: Incorrect API key provided: \[key\]; --key_var",
        ),
        (error(404, "no model m"), "does not answer: status 404: no model m"),
        (send("x" * 1000, 405), r"status 405: x{200} …"),
        (error(429, "quota", Retry_After="86400"), "asks to wait for 86,400 seconds"),
    ],
)
def test_what_would_fail_again_stops_at_once(action, message):
    with Stub(lambda asked: action) as stub, pytest.raises(UserError, match=message) as caught:
        list(Server(stub.url, "m", KEY).ask_all([REQUEST]))
    assert KEY not in str(caught.value)
    assert len(stub.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_not_asked_again(status):
    with Stub(lambda asked: error(status, "the prompt is too long")) as stub:
        assert ask(stub) == Reply(f"status {status}: the prompt is too long", "refused")
        assert len(stub.asked) == 1


def test_nothing_there_is_said_at_once_and_a_server_that_goes_away_is_waited_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    with pytest.raises(UserError, match=r"nothing answers there: .*refused"):
        Server(url, "m").ask(REQUEST)
    assert time.monotonic() - began < 5
    with Stub(lambda asked: reply("2")) as stub:
        server = Server(stub.url, "m", retries=1)
        assert server.ask(REQUEST).is_answer
    gone = server.ask(REQUEST)
    assert gone.end == "failed"
    assert "refused" in gone.text


def test_a_trickle_is_no_answer():
    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(60):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    with Stub(lambda asked: drip) as stub:
        assert ask(stub, retries=0) == Reply("an answer without end", "failed")


# -------- the key --------


def test_the_key_is_not_sent_on_to_another_address():
    with (
        Stub(lambda asked: reply("2")) as other,
        Stub(lambda asked: send("", 307, Location=f"{other.url}/chat/completions")) as stub,
        pytest.raises(UserError, match=r"leads on to http://127.*the key is not sent on"),
    ):
        ask(stub, key=KEY)
    assert other.asked == []


def test_a_key_that_a_server_repeats_is_taken_out():
    with Stub(lambda asked: send(completion(f"Your key is {KEY}.", reasoning=KEY))) as stub:
        got = ask(stub, key=KEY)
    assert (got.text, got.thoughts) == ("Your key is [key].", "[key]")
    with Stub(lambda asked: reply("EMPTY set")) as stub:  # what is no secret is a word
        assert ask(stub, key="EMPTY").text == "EMPTY set"
    with Stub(lambda asked: send(json.dumps({"detail": KEY}), 500)) as stub:
        assert KEY not in ask(stub, key=KEY, retries=0).text


@pytest.mark.parametrize("key", ["", "abc\ndef", "two words", "schlüssel"])
def test_what_is_no_key_is_refused_unseen(key):
    with pytest.raises(UserError, match="the key is empty or holds characters") as caught:
        Server("http://127.0.0.1:1/v1", "m", key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a/v1", "http://", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match="an address such as"):
        Server(url, "m")


@pytest.mark.parametrize("url", [f"https://me:{KEY}@a.b/v1", f"https://a.b/v1?key={KEY}", f"https://a.b/v1#{KEY}"])
def test_an_address_that_holds_a_secret_is_refused_unseen(url):
    with pytest.raises(UserError, match="it is written down") as caught:
        Server(url, "m")
    assert KEY not in str(caught.value)


# -------- many --------


def test_many_at_a_time_and_no_more():
    lock, under_way, at_once = threading.Lock(), [0], []

    def count(asked):
        def answer(handler):
            with lock:
                under_way[0] += 1
                at_once.append(under_way[0])
            time.sleep(0.1)
            with lock:  # before the reply, after which the next request may come
                under_way[0] -= 1
            reply(asked.question)(handler)

        return answer

    with Stub(count) as stub:
        requests = [{"messages": [{"content": str(n)}]} for n in range(20)]
        replies = dict(Server(stub.url, "m", concurrency=4).ask_all(requests))
    assert max(at_once) == 4
    assert {number: got.text for number, got in replies.items()} == {n: str(n) for n in range(20)}


def test_a_rate_is_kept():
    with Stub(lambda asked: reply("2")) as stub:
        list(Server(stub.url, "m", requests_per_minute=600).ask_all([REQUEST] * 6))
        times = sorted(asked.at for asked in stub.asked)
    assert times[-1] - times[0] >= 0.45  # five intervals of 0.1 s, less what the first was late
