"""A client for any endpoint that speaks the OpenAI protocol: cached on disk, resumed, retried, counted."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from patchclamp.base.errors import PatchclampError
from patchclamp.base.progress import Progress

__all__ = ["ChatClient", "Cost", "Reply"]

Messages = Sequence[Mapping[str, str]]
_AGAIN = frozenset([408, 409, 425, 429, 500, 502, 503, 504])


@dataclass(frozen=True)
class Cost:
    """Requests, tokens and money; `tokens_in` before a request is an estimate, after it what the server counted."""

    requests: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return (
            f"{self.requests} requests ({self.cached} more from the cache), {self.tokens_in:,} tokens in, "
            f"{self.tokens_out:,} out, {self.money:.4f}"
        )


@dataclass(frozen=True)
class Reply:
    """What came back: its text, the tokens counted, and, where asked for, log-probabilities of the first token.

    `first` is (token, log-probability) of the likeliest candidates for the first token, empty where the server gives
    none.
    """

    text: str
    tokens_in: int
    tokens_out: int
    first: tuple[tuple[str, float], ...] = ()
    cached: bool = False


@dataclass
class ChatClient:
    """Ask a model behind ``{base_url}/chat/completions``.

    Parameters
    ----------
    base_url
        Such as ``http://localhost:8000/v1``.
    model
        Its name there.
    key_env
        Name of the environment variable that holds the key; no key is sent where it is not set. The key is never
        written anywhere.
    cache
        JSON lines file of requests and replies: a request that stands there is not sent again, which makes a killed
        run resume. None = no cache.
    price
        Money for a million tokens (in, out), for the estimate and the sum.
    temperature, seed, max_tokens
        Sent with every request.
    timeout, retries, pause
        Seconds for a request; further tries on a busy or broken server, after `pause` seconds, doubled each time, or
        what the server asks for.
    extra
        Further fields of the request.

    Examples
    --------
    >>> client = ChatClient("http://localhost:8000/v1", "any", price=(1.0, 2.0), max_tokens=10)
    >>> client.estimate([[{"role": "user", "content": "x" * 400}]])
    Cost(requests=1, cached=0, tokens_in=104, tokens_out=10, money=0.000124)
    """

    base_url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    cache: str | Path | None = None
    price: tuple[float, float] = (0.0, 0.0)
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 256
    timeout: float = 120.0
    retries: int = 5
    pause: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    spent: Cost = field(default=Cost(), init=False)
    _known: dict[str, dict[str, Any]] | None = field(default=None, init=False, repr=False)

    def estimate(self, requests: Sequence[Messages], max_tokens: int | None = None) -> Cost:
        """What requests will cost at most, before any is sent.

        A token is taken as four characters and a message as four tokens more; the whole of `max_tokens` is counted as
        the reply. Requests in the cache cost nothing.
        """
        total = Cost()
        for messages in requests:
            if self._key(self._body(messages, max_tokens, 0)) in self._cached():
                total += Cost(cached=1)
                continue
            tokens_in = sum(math.ceil(len(m["content"]) / 4) + 4 for m in messages)
            out = max_tokens or self.max_tokens
            total += Cost(1, 0, tokens_in, out, self._money(tokens_in, out))
        return total

    def ask(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        top_logprobs: int = 0,
    ) -> Reply:
        """Send one request, or find it in the cache.

        Raises
        ------
        PatchclampError
            When the server refuses, stays busy, cannot be reached, or sends what is no chat completion.
        """
        body = self._body(messages, max_tokens, top_logprobs)
        key = self._key(body)
        known = self._cached().get(key)
        if known is not None:
            self.spent += Cost(cached=1)
            return Reply(**{**known, "first": tuple(tuple(pair) for pair in known["first"])}, cached=True)
        reply = _read(self._send(body), self.base_url)
        self._store(key, body, reply)
        money = self._money(reply.tokens_in, reply.tokens_out)
        self.spent += Cost(1, 0, reply.tokens_in, reply.tokens_out, money)
        return reply

    def ask_all(
        self,
        requests: Sequence[Messages],
        *,
        max_tokens: int | None = None,
        top_logprobs: int = 0,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Send requests one after the other; what was answered stays in the cache if one fails."""
        out: list[Reply] = []
        for messages in requests:
            out.append(self.ask(messages, max_tokens=max_tokens, top_logprobs=top_logprobs))
            if progress is not None:
                progress(f"asking {self.model}, {self.spent}", len(out), len(requests))
        return out

    def _money(self, tokens_in: int, tokens_out: int) -> float:
        return (self.price[0] * tokens_in + self.price[1] * tokens_out) / 1e6

    def _body(self, messages: Messages, max_tokens: int | None, top_logprobs: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in messages],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": max_tokens or self.max_tokens,
            **self.extra,
        }
        if top_logprobs:
            body |= {"logprobs": True, "top_logprobs": top_logprobs}
        return body

    def _key(self, body: Mapping[str, Any]) -> str:
        text = json.dumps([self.base_url.rstrip("/"), body], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def _cached(self) -> dict[str, dict[str, Any]]:
        """Replies on disk; a last line that was cut off when a run was killed is passed over."""
        if self._known is None:
            self._known = {}
            path = None if self.cache is None else Path(self.cache)
            lines = path.read_text(encoding="utf-8").split("\n") if path is not None and path.exists() else []
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line) if line.strip() else None
                except json.JSONDecodeError as error:
                    if number == len(lines):
                        continue
                    raise PatchclampError(
                        f"{path}, line {number}: no JSON ({error}); remove the line"
                    ) from error
                if record is not None:
                    self._known[record["key"]] = record["reply"]
        return self._known

    def _store(self, key: str, body: Mapping[str, Any], reply: Reply) -> None:
        record = {name: value for name, value in asdict(reply).items() if name != "cached"}
        self._cached()[key] = record
        if self.cache is None:
            return
        path = Path(self.cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut off would swallow the next one: end it first.
        with path.open("rb+" if path.exists() else "wb+") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(file):
                _drop_last_line(file)
            line = json.dumps({"key": key, "request": body, "reply": record}, ensure_ascii=True)
            file.write(line.encode("ascii") + b"\n")

    def _send(self, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_env)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = self.base_url.rstrip("/") + "/chat/completions"
        data = json.dumps(body).encode("utf-8")
        problem = ""
        for attempt in range(self.retries + 1):
            wait = self.pause * 2**attempt
            try:
                request = urllib.request.Request(url, data=data, headers=headers)
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                text = error.read().decode("utf-8", "replace")[:300]
                problem = f"status {error.code}: {text}"
                if error.code not in _AGAIN:
                    raise PatchclampError(
                        f"{url}: {problem}; check the model's name ({self.model}), the key in {self.key_env} and the URL"
                    ) from error
                wait = _asked(error.headers.get("Retry-After"), wait)
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                problem = f"{type(error).__name__}: {error}"
            except ValueError as error:  # what urllib says of a URL that is none
                raise PatchclampError(
                    f"{url}: {error}; give base_url such as http://localhost:8000/v1"
                ) from error
            if attempt < self.retries:
                time.sleep(wait)
        raise PatchclampError(
            f"{url}: no reply after {self.retries + 1} tries ({problem}); is the server running? What was answered so far "
            + ("is lost: give cache=" if self.cache is None else f"is in {self.cache}; run again to resume")
        )


def _asked(header: str | None, otherwise: float) -> float:
    """Seconds that a busy server asks to wait, at most a minute."""
    try:
        return min(60.0, max(0.0, float(header or "")))
    except ValueError:
        return otherwise


def _read(data: Any, url: str) -> Reply:
    try:
        choice = data["choices"][0]
        text = choice["message"]["content"] or ""
        usage = data.get("usage") or {}
        content = (choice.get("logprobs") or {}).get("content") or []
        first = (
            tuple((str(c["token"]), float(c["logprob"])) for c in content[0]["top_logprobs"])
            if content
            else ()
        )
        return Reply(
            str(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), first
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PatchclampError(
            f"{url}: the reply is no chat completion ({type(error).__name__}: {error}): {str(data)[:200]}"
        ) from error


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    ends = file.read(1) == b"\n"
    file.seek(0, os.SEEK_END)
    return bool(ends)


def _drop_last_line(file: Any) -> None:
    file.seek(0)
    whole = file.read()
    file.truncate(whole.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
