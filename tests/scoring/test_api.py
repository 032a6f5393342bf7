"""Scoring behind a completions endpoint, against a server in this process."""

import contextlib
import itertools
import json
import logging
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.attacks.registry import parse
from mimir_jax.scoring import api
from mimir_jax.scoring.api import ApiError, Endpoint, score_texts
from mimir_jax.scoring.store import Store

KEY = "sk-test-secret"
TEXTS = ["the cat sat on the mat", "", "a dog", "the cat sat on the mat", "one", "naïve café, twice: naïve café"]

Answer = tuple[int, Any]
"""Status and JSON (or bytes)."""


def pieces(text: str) -> list[str]:
    return re.findall(r"<\|endoftext\|>|\s?[^\s]+|\s+", text)


def log_prob(before: str, piece: str) -> float:
    """A number that depends on the piece and all before it."""
    return -(zlib.crc32((before + "|" + piece).encode()) % 1000) / 100


def echo(prompt: str, bos: str = "", generated: str = "") -> dict[str, Any]:
    """What a server answers to an echo request."""
    tokens = [*([bos] if bos else []), *pieces(prompt), *([generated] if generated else [])]
    offsets = [0, *itertools.accumulate(map(len, tokens))][:-1]
    text = "".join(tokens)
    values = [None if not at else log_prob(text[:at], token) for at, token in zip(offsets, tokens)]
    best = [None if value is None else {"likeliest": value / 2} for value in values]
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": best, "text_offset": offsets}
    return {"choices": [{"text": prompt + generated, "index": 0, "logprobs": logprobs}]}


class Server:
    """Answers by `answer(request, number)`; keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda request, number: (200, echo(request["prompt"]))
        self.retry_after: str | None = None
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    number = len(server.requests)
                    server.requests.append(request)
                    server.headers.append(dict(self.headers) | {"path": self.path})
                status, content = server.answer(request, number)
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                if server.retry_after is not None:
                    self.send_header("Retry-After", server.retry_after)
                if 300 <= status < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asked has gone
                    self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [request["prompt"] for request in self.requests]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    one = Server()
    yield one
    one.close()


def endpoint(server: Server, **changes: Any) -> Endpoint:
    return Endpoint(**({"base_url": server.url, "model": "m", "key": KEY} | changes))


def expected(text: str, prefix: str = "") -> list[float | None]:
    found: list[float | None] = []
    before = prefix
    for piece in pieces(text):
        found.append(log_prob(before, piece) if before else None)
        before += piece
    return found


def check(stats: TokenStats, values: list[float | None]) -> None:
    assert stats.mask.tolist() == [value is not None for value in values]
    np.testing.assert_allclose(stats.log_prob, [value or 0 for value in values], rtol=1e-6)


def test_log_probs_of_each_text_in_order(server: Server) -> None:
    found = score_texts(endpoint(server), TEXTS)
    for text, stats in zip(TEXTS, found):
        check(stats, expected(text))
    assert len(found[1].mask) == 0
    # an empty text is not asked for, and equal ones once
    assert sorted(server.prompts()) == sorted({text for text in TEXTS if text})


def test_what_is_asked(server: Server) -> None:
    score_texts(endpoint(server, base_url=server.url + "/"), ["a b"])
    (request,), (headers,) = server.requests, server.headers
    assert request == {
        "model": "m",
        "prompt": "a b",
        "echo": True,
        "logprobs": 1,
        "max_tokens": 0,
        "temperature": 0,
    }
    assert headers["path"] == "/v1/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    score_texts(endpoint(server, key=""), ["c"])
    assert "Authorization" not in server.headers[-1]


def test_fields_that_an_endpoint_does_not_know(server: Server) -> None:
    stats = score_texts(endpoint(server), ["the cat saw the cat"])[0]
    assert stats.token_ids.dtype == np.int32
    assert (stats.token_ids >= 0).all()
    ids = stats.token_ids.tolist()
    assert ids[1] == ids[4]  # " cat"
    assert len(set(ids)) == 4  # "the" and " the" are two
    assert np.isnan(stats.mean[1:]).all()
    assert np.isnan(stats.var[1:]).all()
    np.testing.assert_allclose(stats.max_log_prob[1:], stats.log_prob[1:] / 2)
    assert stats.rank.tolist() == [0] * 5
    for field in (stats.mean, stats.var, stats.max_log_prob, stats.log_prob):
        assert field[0] == 0
        assert field.dtype == np.float32


def test_the_likeliest_token_is_known_to_be(server: Server) -> None:
    def answer(request: dict[str, Any], number: int) -> Answer:
        content = echo(request["prompt"])
        found = content["choices"][0]["logprobs"]
        values = found["token_logprobs"]
        # The second token is the likeliest one; servers name it, or another as likely.
        found["top_logprobs"] = [None, {"x": values[1]}, {"x": values[2] / 2}, None]
        return 200, content

    server.answer = answer
    stats = score_texts(endpoint(server), ["a b c d"])[0]
    assert stats.rank.tolist() == [0, 1, 0, 0]
    assert np.isnan(stats.max_log_prob).tolist() == [False, False, False, True]


def test_servers_without_top_log_probs_and_offsets(server: Server) -> None:
    def answer(request: dict[str, Any], number: int) -> Answer:
        content = echo(request["prompt"])
        del content["choices"][0]["logprobs"]["top_logprobs"], content["choices"][0]["logprobs"]["text_offset"]
        return 200, content

    server.answer = answer
    stats = score_texts(endpoint(server), [TEXTS[0]])[0]
    check(stats, expected(TEXTS[0]))
    assert np.isnan(stats.max_log_prob[1:]).all()


def test_a_prefix_is_read_and_not_scored(server: Server) -> None:
    bos = "<|endoftext|>"
    found = score_texts(endpoint(server, prefix=bos), ["the cat", "a"])
    assert sorted(server.prompts()) == [f"{bos}a", f"{bos}the cat"]
    check(found[0], expected("the cat", bos))
    check(found[1], expected("a", bos))
    assert found[0].mask.all()  # the first token has something before it
    found = score_texts(endpoint(server, prefix="first of all"), [" the cat sat"])
    check(found[0], expected(" the cat sat", "first of all"))


def test_a_server_that_puts_a_bos_first(server: Server) -> None:
    """Its token is not the text's; the first one of the text then has a prediction."""
    server.answer = lambda request, number: (200, echo(request["prompt"], bos="<s>"))
    found = score_texts(endpoint(server), ["the cat sat", "s"])
    check(found[0], expected("the cat sat", "<s>"))
    check(found[1], expected("s", "<s>"))  # "s" is also inside of the BOS


def test_a_server_that_must_generate(server: Server) -> None:
    def answer(request: dict[str, Any], number: int) -> Answer:
        if request["max_tokens"] < 1:
            return 400, {"error": {"message": "max_tokens must be at least 1"}}
        return 200, echo(request["prompt"], generated=" more")

    server.answer = answer
    found = score_texts(endpoint(server), ["the cat", "a dog", "one two"])
    for text, stats in zip(["the cat", "a dog", "one two"], found):
        check(stats, expected(text))
    assert [request["max_tokens"] for request in server.requests].count(0) == 1  # learned once


def test_parts_of_characters(server: Server) -> None:
    """Tokens that are no text of their own are placed by their offsets."""
    logprobs = {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "b", "!"],
        "token_logprobs": [None, -1.0, -2.0, -3.0, -4.0],
        "text_offset": [0, 1, 1, 2, 3],
    }
    server.answer = lambda request, number: (200, {"choices": [{"text": "aéb!", "logprobs": logprobs}]})
    stats = score_texts(endpoint(server), ["aéb"])[0]
    check(stats, [None, -1.0, -2.0, -3.0])


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4), st.sampled_from(["", "<s>"]))
def test_any_text_is_found_in_its_echo(texts: list[str], bos: str) -> None:
    for text in texts:
        stats = api._read(echo(text, bos=bos, generated="\u2028more"), text, 0)
        assert len(stats.mask) == len(pieces(text))
        assert stats.mask[1:].all()
        assert stats.mask[:1].all() == bool(bos)


def test_answers_in_another_order_keep_their_places(server: Server) -> None:
    texts = [f"text number {i} of some" for i in range(24)]
    gate = threading.Barrier(4, timeout=5)

    def answer(request: dict[str, Any], number: int) -> Answer:
        if 1 <= number < 9:
            gate.wait()  # four at a time are under way
        return 200, echo(request["prompt"])

    server.answer = answer
    done: list[int] = []
    started: list[int] = []
    found = score_texts(endpoint(server, concurrency=4), texts, on_start=started.append, on_text=done.append)
    for text, stats in zip(texts, found):
        check(stats, expected(text))
    assert started == [24]
    assert sum(done) == 24


def test_the_store_is_asked_first(server: Server, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = score_texts(endpoint(server), TEXTS, store=store)
    store.close()
    n = len(server.requests)
    again = score_texts(endpoint(server), [*TEXTS, "new"], store=Store(tmp_path))
    assert server.prompts()[n:] == ["new"]
    for one, other in zip(first, again):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
    # another model, prefix or place is another target
    for changes in ({"model": "n"}, {"prefix": "p "}):
        score_texts(endpoint(server, **changes), ["a dog"], store=Store(tmp_path))
    assert len(server.requests) == n + 3
    assert endpoint(server, key="other").identity == endpoint(server).identity


def test_what_came_before_a_failure_is_stored(server: Server, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(6)]
    server.answer = lambda request, number: (200, echo(request["prompt"])) if number < 3 else (403, {})
    store = Store(tmp_path)
    with pytest.raises(ApiError, match="may not use m"):
        score_texts(endpoint(server, concurrency=1), texts, store=store)
    store.close()
    n = len(server.requests)
    server.answer = lambda request, number: (200, echo(request["prompt"]))
    score_texts(endpoint(server), texts, store=Store(tmp_path))
    assert sorted(server.prompts()[n:]) == texts[3:]


# --- failures


def test_failures_that_pass_are_repeated_after_longer_pauses(server: Server) -> None:
    statuses = [429, 500, 503, 408]
    server.answer = lambda request, number: (statuses[number], {}) if number < 4 else (200, echo(request["prompt"]))
    pauses: list[float] = []
    stats = score_texts(endpoint(server), ["a b"], sleep=pauses.append)[0]
    check(stats, expected("a b"))
    assert len(pauses) == 4
    for i, pause in enumerate(pauses):
        assert 0.25 * 2**i <= pause <= 0.5 * 2**i


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7, 7),
        ("100000", 60, 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0.25, 0.5),
        ("-3", 0, 0),
    ],
)
def test_the_server_says_when(server: Server, header: str, low: float, high: float) -> None:
    server.answer = lambda request, number: (200, echo(request["prompt"])) if number else (429, {})
    server.retry_after = header
    pauses: list[float] = []
    score_texts(endpoint(server), ["a b"], sleep=pauses.append)
    assert len(pauses) == 1
    assert low <= pauses[0] <= high


def test_it_gives_up(server: Server) -> None:
    server.answer = lambda request, number: (429, {"error": {"message": "slow down"}})
    with pytest.raises(ApiError, match=r"doc7: too many requests \(429\).*slow down; gave up after 3 requests"):
        score_texts(endpoint(server, retries=2), ["a"], ["doc7"], sleep=lambda seconds: None)
    assert len(server.requests) == 3


def test_a_failure_for_good_ends_the_pauses_of_others(server: Server) -> None:
    """Without an injected sleep: one request would wait for a minute, and another one is refused."""

    def answer(request: dict[str, Any], number: int) -> Answer:
        if number == 0:
            return 200, echo(request["prompt"])
        return (503, {}) if request["prompt"] == "wait" else (401, {})

    server.answer = answer
    server.retry_after = "60"
    with pytest.raises(ApiError, match="key is refused"):
        score_texts(endpoint(server, concurrency=2), ["first", "wait", "refused"])


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (
            401,
            {"error": {"message": f"Incorrect API key provided: {KEY}"}},
            r"the key is refused \(401\).*OPENAI_API_KEY",
        ),
        (403, {}, r"may not use m \(403\)"),
        (404, {"error": {"message": "no such model"}}, r"no model 'm'.*\(404\).*no such model"),
        (400, {"error": {"message": "maximum context length is 8", "code": "context_length_exceeded"}}, "doc: longer"),
        (400, {"error": {"message": "max_tokens too high: context 8"}}, "doc: longer than the model's context"),
        (413, b"", "doc: longer than the model's context"),
        (422, {"message": "`echo` is not supported"}, "m does not echo log-probs"),
        (400, {"error": "logprobs must be null"}, "m does not echo log-probs"),
        (429, {"error": {"code": "insufficient_quota", "message": "pay"}}, r"quota is used up \(429\): pay"),
        (418, b"<html>teapot</html>", "refused with status 418: <html>teapot"),
        (302, {}, "refused with status 302"),
    ],
)
def test_refusals_are_explained_and_not_repeated(server: Server, status: int, said: Any, message: str) -> None:
    server.answer = lambda request, number: (status, said)
    with pytest.raises(ApiError, match=message) as error:
        score_texts(endpoint(server), ["a"], ["doc"], sleep=lambda seconds: None)
    assert KEY not in str(error.value)
    assert len(server.requests) == 1


def changed(**fields: Any) -> dict[str, Any]:
    content = echo("a b c")
    content["choices"][0]["logprobs"] |= fields
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not JSON"),
        ([], "no log-probs of the prompt"),
        ({"choices": []}, "no log-probs of the prompt"),
        ({"choices": [{"text": "a b c", "logprobs": None}]}, "no log-probs of the prompt"),
        ({"choices": [{"message": {"content": "hello"}}]}, "no log-probs of the prompt"),
        ({"choices": [{"text": "a b c", "logprobs": {"content": []}}]}, "no log-probs of the prompt"),
        (echo("another text"), "no log-probs of the prompt"),  # only what it generated
        (changed(tokens=[]), "not as many"),
        (changed(token_logprobs=[None, -1.0]), "not as many"),
        (changed(token_logprobs=[None, -1.0, None]), "inside the text has no log-prob"),
        (changed(token_logprobs=[None, -1.0, float("nan")]), "inside the text has no log-prob"),
        (changed(token_logprobs=[None, -1.0, float("-inf")]), "inside the text has no log-prob"),
        (changed(token_logprobs=[None, -1.0, "x"]), "no log-probs of the prompt"),
        (changed(token_logprobs=[None, -1.0, 0.5]), "above 0"),
        (changed(top_logprobs=[None, 3, None]), "no log-probs of the prompt"),
    ],
)
def test_answers_that_cannot_be_used(server: Server, content: Any, message: str) -> None:
    server.answer = lambda request, number: (200, content)
    with pytest.raises(ApiError, match=message):
        score_texts(endpoint(server), ["a b c"], ["doc"])


def test_a_server_that_is_not_there(server: Server) -> None:
    free = Server()
    url = free.url
    free.close()
    with pytest.raises(ApiError, match=r"cannot be reached .*gave up after 2 requests"):
        score_texts(Endpoint(url, "m", retries=1), ["a"], sleep=lambda seconds: None)


def test_a_server_that_never_answers(server: Server) -> None:
    gate = threading.Event()

    def answer(request: dict[str, Any], number: int) -> Answer:
        gate.wait(5)
        return 500, {}

    server.answer = answer
    with pytest.raises(ApiError, match="cannot be reached"):
        score_texts(endpoint(server, timeout=0.05, retries=0), ["a"])
    gate.set()


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "file:///etc/passwd"},
        {"base_url": "localhost:80"},
        {"base_url": ""},
        {"concurrency": 0},
        {"retries": -1},
        {"timeout": 0.0},
    ],
)
def test_endpoints_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ApiError):
        Endpoint(**({"base_url": "http://localhost", "model": "m"} | changes))


@pytest.mark.parametrize("changes", [{"key": f"{KEY}\n"}, {"base_url": "http://127.0.0.1:1/a b"}])
def test_keys_and_urls_that_cannot_be_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="not a URL and key") as error:
        score_texts(Endpoint(**({"base_url": "http://127.0.0.1:1", "model": "m"} | changes)), ["a"])
    assert "secret" not in str(error.value)


def test_the_key_is_in_no_log_and_no_repr(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answer = lambda request, number: (200, echo(request["prompt"])) if number else (500, {"error": KEY})
    score_texts(endpoint(server), ["a b"], sleep=lambda seconds: None)
    assert KEY not in caplog.text
    assert KEY not in repr(endpoint(server))
    assert KEY not in endpoint(server).identity


def test_attacks_that_need_only_log_probs(server: Server) -> None:
    texts = ["the cat sat on the mat today", "a dog ran over the hill at noon"]
    stats = pad_documents(score_texts(endpoint(server), texts))
    values = [[value for value in expected(text) if value is not None] for text in texts]
    np.testing.assert_allclose(parse("loss")(stats), [np.mean(v) for v in values], rtol=1e-5)
    lowest = [np.mean(sorted(v)[: max(1, int(0.5 * len(v)))]) for v in values]
    np.testing.assert_allclose(parse("min_k@k=0.5")(stats), lowest, rtol=1e-5)
    # What needs the whole prediction has no score, rather than a wrong one.
    assert np.isnan(np.asarray(parse("min_k++")(stats))).all()
    assert np.isnan(np.asarray(parse("entropy")(stats))).all()
