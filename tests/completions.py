"""A completions endpoint in this process, whose log-probs tests know."""

import itertools
import json
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np


def pieces(text: str) -> list[str]:
    """Tokens: words with the white space before them."""
    return re.findall(r"<\|endoftext\|>|\s?[^\s]+|\s+", text)


def log_probs(text: str, prefix: str = "") -> np.ndarray:
    """Of each token of the text; without a prefix the first one has none."""
    tokens = pieces(text)
    before = [prefix + "".join(tokens[:i]) for i in range(len(tokens))]
    found = [-(zlib.crc32(f"{b}|{token}".encode()) % 1000) / 100 for b, token in zip(before, tokens) if b]
    return np.array(found)


class Server:
    """Attributes: url, and the requests so far with their keys."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.keys.append(self.headers.get("Authorization"))
                body = json.dumps(_echo(request["prompt"])).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [request["prompt"] for request in self.requests]


def _echo(prompt: str) -> dict[str, Any]:
    tokens = pieces(prompt)
    offsets = [0, *itertools.accumulate(map(len, tokens))][:-1]
    values = [None, *log_probs(prompt).tolist()]
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}
    return {"choices": [{"text": prompt, "index": 0, "logprobs": logprobs}]}


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
