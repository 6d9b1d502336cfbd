"""The client and the prompts against transformers' own server with the embedded model.

A model of 135 million parameters cannot explain neurons; what is tested is that explanations and judgements travel,
are counted, cached and read, and that answers which cannot be read are failures and no numbers.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from patchclamp.describe import ChatClient, LLMJudge, Split, Tokens, explain, windows_of
from patchclamp.describe.scoring import detection
from patchclamp.subjects.files.embedded import EMBEDDED, converted

NEEDED = ("fastapi", "uvicorn", "openai", "pydantic")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.skipif(bool(missing), reason=f"transformers serve needs {', '.join(missing)}"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The converted folder with the name of its class in the configuration, which the server reads."""
    source, folder = converted("smollm2"), tmp_path_factory.mktemp("model")
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text()) | {
        "architectures": [EMBEDDED["smollm2"].model_class]
    }
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    call = "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", call, "serve", model, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            if server.poll() is not None:
                pytest.fail(f"transformers serve ended with {server.returncode}: {log.read_text()[-1500:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (OSError, urllib.error.URLError):
                time.sleep(0.5)
        else:
            pytest.fail(f"transformers serve did not start: {log.read_text()[-1500:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    words = ["red", "blue", "old", "tall", "warm", "quiet", "small", "round"]
    texts = []
    for i in range(60):
        text = ["The", *(f" {w}" for w in rng.choice(words, 4)), " house", f" {i}", "."]
        if i % 2:
            text[5] = " cat"
        texts.append(text)
    tokens = Tokens.of(texts)
    activity = np.array([[piece == " cat"] for piece in tokens.pieces], float)
    return windows_of(
        activity, tokens, Split.of(tokens), 0, width=8, n_making=4, n_scoring=3, name="planted[0]"
    )


def test_explanations_and_judgements_travel_are_counted_and_cached(url, model, examples, tmp_path):
    path = tmp_path / "replies.jsonl"
    client = ChatClient(url, model, cache=path, price=(1.0, 1.0), max_tokens=48, timeout=300)
    told = []
    [found] = explain(client, [examples[0]], before=told.append)
    assert found.method == "explain"
    assert found.facts["tokens_in"] > 100
    assert 0 < found.facts["tokens_out"] <= 48
    # Four characters a token is an estimate; it must be of the right size.
    assert 0.5 < told[0].tokens_in / found.facts["tokens_in"] < 2
    said = found.text or "the word cat"
    judged = type(found)(found.unit, said, found.method, None, found.made_on, found.facts)
    result = detection(judged, examples[1], LLMJudge(client), n_boot=20)
    assert result.n == 6
    assert 0 <= result.failed <= 6
    assert np.isnan(result.value) or 0 <= result.value <= 1
    sent = client.spent.requests
    same = ChatClient(url, client.model, cache=path, max_tokens=48)
    [cached] = explain(same, [examples[0]])
    detection(judged, examples[1], LLMJudge(same), n_boot=20)
    assert cached.text == found.text
    assert same.spent.requests == 0
    assert same.spent.cached == sent
