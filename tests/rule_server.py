"""A small server that speaks the chat-completions protocol over real HTTP and answers by rules, not by a model.

It stands for a language model where the transport is under test: it reads what the prompts say and answers as one
that follows them to the letter.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, str], str]


def by_rule(system: str, user: str) -> str:
    """Explain by the marked tokens; judge by whether a text has one of the words in the description."""
    if "Explanation:" in system:
        found = sorted({m.strip() for m in re.findall(r"<<([^<>]*)>>", user)})
        return "They are these.\nExplanation: the tokens " + ", ".join(f'"{w}"' for w in found)
    head, _, rest = user.partition("\n\n")
    words = set(re.findall(r'"([^"]+)"', head))
    if "one token a line" in system:
        return json.dumps([10 * (json.loads(line).strip() in words) for line in rest.split("\n")])
    texts = [json.loads(line.split(": ", 1)[1]) for line in rest.split("\n")]
    if "stand between" in system:
        marks = [re.findall(r"<<([^<>]*)>>", text) for text in texts]
        return json.dumps([int(bool(m) and all(w.strip() in words for w in m)) for m in marks])
    return json.dumps([int(any(w in words for w in text.split())) for text in texts])


class Server(ThreadingHTTPServer):
    """Counts requests; `refuse` holds (status, headers) to give before it answers."""

    daemon_threads = True

    def __init__(self, answer: Answer = by_rule) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refuse: list[tuple[int, dict[str, str]]] = []
        self.raw: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        if self.path != "/v1/chat/completions":
            return self._give(404, b'{"error": "no such path"}')
        if self.server.refuse:
            status, headers = self.server.refuse.pop(0)
            return self._give(status, b'{"error": "not now"}', headers)
        if self.server.raw is not None:
            return self._give(200, self.server.raw)
        system, user = (m["content"] for m in body["messages"])
        text = self.server.answer(system, user)
        reply = {
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": len(system + user) // 4, "completion_tokens": len(text) // 4 + 1},
        }
        return self._give(200, json.dumps(reply).encode())

    def _give(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(answer: Answer = by_rule) -> Iterator[Server]:
    """A running server on a free port."""
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
