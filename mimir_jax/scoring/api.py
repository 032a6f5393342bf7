"""A target behind an OpenAI-compatible completions endpoint that echoes the log-probs of the prompt's tokens.

What such an endpoint tells of a token is its text, its log-prob, and often the likeliest token's log-prob. Of
TokenStats the rest stays unknown: see `score_texts`. Attacks that need it cannot run on such a target.
"""

import hashlib
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from typing import Any

import numpy as np

from mimir_jax.arrays import TokenStats
from mimir_jax.scoring.passes import STATS_VERSION
from mimir_jax.scoring.store import Store

DEFAULT_BASE_URL = "https://api.openai.com/v1"

KNOWN = frozenset({"token_ids", "log_prob", "mask"})
"""Fields of TokenStats that every echoing endpoint gives."""

LONGEST_PAUSE = 60.0  # seconds before a request is repeated


class ApiError(RuntimeError):
    """An endpoint that cannot be used, or did not answer as it should; the message says what to do."""


@dataclass(frozen=True)
class Endpoint:
    """Where the target is, and how it is asked.

    Attributes:
        base_url: up to and without /completions, such as https://api.openai.com/v1.
        model: its name there.
        key: sent as a bearer token, and nowhere else; "" where none is needed.
        prefix: text in front of each document, read by the model and not scored, such as its BOS. Without one the
            first token of a document has no prediction.
        concurrency: requests at a time.
        retries: how often a request is repeated after a failure that may pass.
        timeout: seconds for an answer.
    """

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    prefix: str = ""
    concurrency: int = 8
    retries: int = 6
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ApiError(f"base_url: {self.base_url!r}: must begin with https:// or http://")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise ApiError("an endpoint needs a concurrency of at least 1, retries of at least 0 and a timeout above 0")

    @property
    def identity(self) -> str:
        """What stands for the hash of a checkpoint. The model behind a name may change, and nothing tells."""
        return hashlib.sha256(f"{self.base_url}\n{self.model}\n{self.prefix}".encode()).hexdigest()


def score_texts(
    endpoint: Endpoint,
    texts: Sequence[str],
    ids: Sequence[str] | None = None,
    store: Store | None = None,
    on_start: Callable[[int], None] = lambda total: None,
    on_text: Callable[[int], None] = lambda done: None,
    sleep: Callable[[float], object] | None = None,
) -> list[TokenStats]:
    """TokenStats [time] of each text, from an endpoint.

    token_ids are 31-bit checksums of the tokens' texts: equal tokens have equal ids, but they are no ids of any
    tokenizer. mean and var are NaN, and so is max_log_prob where the endpoint does not name the likeliest token.
    rank is 1 where the token is the likeliest, and otherwise 0, which is no rank. As everywhere, all of these are 0
    where mask is False. An empty text has no tokens, and is not sent.

    Args:
        endpoint: the target.
        texts: each is one request, unless the store has it.
        ids: their names, for messages.
        store: where results of earlier runs are found and new ones go.
        on_start: called with the number of texts that will be asked for.
        on_text: called with 1 for each answer.
        sleep: waits so many seconds before a request is repeated; by default until another one has failed for good.

    Raises:
        ApiError: the endpoint refuses (key, model, quota, a text that is too long), cannot be reached, fails again
            and again, does not echo log-probs, or answers something else.
    """
    names = [f"text {i}" for i in range(len(texts))] if ids is None else list(ids)
    keys = [_key(endpoint, text) for text in texts]
    found = {} if store is None else store.get(keys)
    found |= {key: _stats([], np.zeros(0), np.zeros(0)) for key, text in zip(keys, texts) if not text}
    missing = {key: i for i, key in reversed(list(enumerate(keys))) if key not in found}
    order = sorted(missing, key=lambda key: missing[key])
    on_start(len(order))
    stopped = threading.Event()
    pause = sleep or stopped.wait

    def keep(key: str, stats: TokenStats) -> None:
        found[key] = stats
        if store is not None:
            store.put(key, stats)
        on_text(1)

    def ask(key: str, length: int) -> TokenStats:
        return _score(endpoint, texts[missing[key]], names[missing[key]], length, pause, stopped.is_set)

    # The first request alone: most of what can be wrong shows there, and whether the server must generate a token.
    length = 0
    if order:
        try:
            first = ask(order[0], length)
        except _MustGenerate:
            length = 1
            first = ask(order[0], length)
        keep(order[0], first)
    with ThreadPoolExecutor(endpoint.concurrency) as pool:
        futures = {pool.submit(ask, key, length): key for key in order[1:]}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return [found[key] for key in keys]


def _key(endpoint: Endpoint, text: str) -> str:
    content = f"{STATS_VERSION}|{endpoint.identity}|".encode() + text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _score(
    endpoint: Endpoint,
    text: str,
    name: str,
    length: int,
    pause: Callable[[float], object],
    stopped: Callable[[], bool],
) -> TokenStats:
    """TokenStats [time] of a text; `length` is how many tokens to generate behind it, which are cut off again."""
    prompt = endpoint.prefix + text
    request = {
        "model": endpoint.model,
        "prompt": prompt,
        "echo": True,
        "logprobs": 1,
        "max_tokens": length,
        "temperature": 0,
    }
    answer = _ask(endpoint, request, name, pause, stopped)
    try:
        return _read(answer, prompt, len(endpoint.prefix))
    except ApiError as error:
        raise ApiError(f"{endpoint.base_url}: {name}: {error}") from None


class _MustGenerate(Exception):
    """max_tokens=0 was refused."""


class _Later(Exception):
    """A failure that may pass; after so many seconds, where the server says it."""

    def __init__(self, message: str, seconds: float | None = None):
        super().__init__(message)
        self.seconds = seconds


def _ask(
    endpoint: Endpoint,
    request: Mapping[str, Any],
    name: str,
    pause: Callable[[float], object],
    stopped: Callable[[], bool],
) -> Any:
    """The answer to a request, which is repeated while its failures may pass."""
    attempt = 0
    while True:
        try:
            return _post(endpoint, request, name)
        except _Later as later:
            if attempt == endpoint.retries or stopped():
                message = f"{endpoint.base_url}: {name}: {later}; gave up after {attempt + 1} requests"
                raise ApiError(message) from None
            # Doubled each time, and a random share of it, so that requests at a time do not come back at a time.
            seconds = 0.5 * 2**attempt * random.uniform(0.5, 1.0) if later.seconds is None else later.seconds
        pause(min(seconds, LONGEST_PAUSE))
        attempt += 1


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: the key goes to no other host."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def _post(endpoint: Endpoint, request: Mapping[str, Any], name: str) -> Any:
    url = f"{endpoint.base_url.rstrip('/')}/completions"
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    try:
        message = urllib.request.Request(url, json.dumps(request).encode(), headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(message, timeout=endpoint.timeout) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        with error:
            body = _body(error)
            raise _refusal(
                endpoint, error.code, body, error.headers.get("Retry-After"), request["max_tokens"], name
            ) from None
    except (ValueError, InvalidURL):  # an URL or a header that cannot be sent; its text may hold the key
        raise ApiError(f"{endpoint.base_url}: not a URL and key that a request can be sent with") from None
    except (OSError, HTTPException) as error:  # no connection, a broken one, or none in time
        reason = getattr(error, "reason", None) or error
        raise _Later(f"cannot be reached ({reason or type(error).__name__})") from None
    try:
        return json.loads(body)
    except ValueError:
        raise ApiError(f"{endpoint.base_url}: {name}: the answer is not JSON; is this an API's base URL?") from None


def _body(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(1 << 16)
    except (OSError, HTTPException):
        return b""


def _refusal(
    endpoint: Endpoint, status: int, body: bytes, retry_after: str | None, length: int, name: str
) -> Exception:
    """The error that an HTTP status means."""
    said, code = _said(endpoint, body)
    url, where = endpoint.base_url, f"{endpoint.base_url}: {name}"
    if status == 401:
        return ApiError(f"{url}: the key is refused (401): check openai_config.key or OPENAI_API_KEY{said}")
    if status == 403:
        return ApiError(f"{url}: the key may not use {endpoint.model} (403){said}")
    if status == 404:
        return ApiError(
            f"{url}: no model {endpoint.model!r}, or no completions (404); a model that only chats echoes nothing{said}"
        )
    if status == 413 or (status in (400, 422) and "context" in said + code):
        return ApiError(f"{where}: longer than the model's context ({status}); leave it out or cut it{said}")
    if status in (400, 422) and "max_tokens" in said and length == 0:
        return _MustGenerate()
    if status in (400, 422) and ("logprobs" in said or "echo" in said):
        return ApiError(f"{url}: {endpoint.model} does not echo log-probs ({status}){said}")
    if status == 429 and "quota" in code:
        return ApiError(f"{url}: the account's quota is used up (429){said}")
    if status == 429:
        return _Later(f"too many requests (429), which a lower concurrency helps{said}", _seconds(retry_after))
    if status in (408, 409) or status >= 500:
        return _Later(f"the server failed ({status}){said}", _seconds(retry_after))
    return ApiError(f"{where}: refused with status {status}{said}")


def _said(endpoint: Endpoint, body: bytes) -> tuple[str, str]:
    """The server's own words, without the key, to append to a message; and its code of the error."""
    text, code = body.decode("utf-8", "replace"), ""
    try:
        error = json.loads(text)
        error = error.get("error", error) if isinstance(error, dict) else error
        if isinstance(error, dict):
            text, code = str(error.get("message", "")), f"{error.get('code')} {error.get('type')}"
        elif isinstance(error, str):
            text = error
    except ValueError:
        pass
    text = " ".join(text.split())[:300]
    if endpoint.key:
        text = text.replace(endpoint.key, "***")
    return (f": {text}" if text else ""), code


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _read(answer: Any, prompt: str, start: int) -> TokenStats:
    """TokenStats [time] of prompt[start:] from an answer to an echo request.

    Raises:
        ApiError: the prompt's log-probs are not in it.
    """
    try:
        choice = answer["choices"][0]
        found = choice["logprobs"]
        tokens, log_probs, offsets = found["tokens"], found["token_logprobs"], found.get("text_offset")
        top = found.get("top_logprobs") or [None] * len(tokens)
        if len({len(tokens), len(log_probs), len(top), len(offsets or tokens)}) > 1:
            raise ApiError("malformed answer: tokens, log-probs and offsets are not as many")
        starts = _starts([str(token) for token in tokens], offsets, str(choice.get("text")), prompt)
        kept = [i for i, offset in enumerate(starts) if start <= offset < len(prompt)]
        values = np.array([np.nan if log_probs[i] is None else float(log_probs[i]) for i in kept], np.float64)
        best = np.array([_best(top[i], value) for i, value in zip(kept, values)], np.float64)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        raise ApiError(
            "the answer has no log-probs of the prompt's tokens; the endpoint must be one of completions, and echo"
        ) from None
    unscored = ~np.isfinite(values)
    # Only a token with nothing before it may lack a prediction.
    if unscored[1:].any() or (unscored[:1].any() and kept[0] > 0):
        raise ApiError("malformed answer: a token inside the text has no log-prob")
    if (values[~unscored] > 1e-3).any():
        raise ApiError("malformed answer: a log-prob is above 0")
    return _stats([str(tokens[i]) for i in kept], values, best)


def _starts(tokens: Sequence[str], offsets: Sequence[Any] | None, echoed: str, prompt: str) -> list[int]:
    """Where in the prompt each token begins; below 0 what the server puts before it, such as a BOS.

    Raises:
        ValueError: the prompt is not in the answer.
    """
    lengths = np.cumsum([0, *map(len, tokens)])[:-1].tolist()
    joined = "".join(tokens)
    for length in lengths:
        if joined.startswith(prompt, length):
            return [other - length for other in lengths]
    # Parts of characters are no text of their own, so that the tokens do not make up the prompt.
    if offsets and echoed.startswith(prompt):
        return [int(offset) for offset in offsets]
    raise ValueError


def _best(top: Mapping[str, float] | None, log_prob: float) -> float:
    """The likeliest token's log-prob; NaN where it is not named."""
    return max(*map(float, top.values()), log_prob) if top else np.nan


def _stats(tokens: Sequence[str], log_prob: np.ndarray, best: np.ndarray) -> TokenStats:
    mask = np.isfinite(log_prob)
    unknown = np.where(mask, np.nan, 0).astype(np.float32)
    likeliest = mask & (log_prob >= best)
    ids = [zlib.crc32(token.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF for token in tokens]
    return TokenStats(
        token_ids=np.array(ids, np.int32),
        log_prob=np.where(mask, np.minimum(log_prob, 0), 0).astype(np.float32),
        mean=unknown,
        var=unknown.copy(),
        max_log_prob=np.where(mask, best, 0).astype(np.float32),
        rank=likeliest.astype(np.int32),
        mask=mask,
    )
