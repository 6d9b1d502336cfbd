"""The client of language models over real HTTP, against a server that answers by rules (no model)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchclamp.base.errors import PatchclampError
from patchclamp.describe import Split, Tokens, windows_of
from patchclamp.describe.llm import ChatClient, LLMJudge, explain
from patchclamp.describe.llm.prompts import explain_messages, marked, read_explanation, read_list
from patchclamp.describe.scoring import detection, fuzzing, simulation
from rule_server import serving

HELLO = [{"role": "system", "content": "Explanation:"}, {"role": "user", "content": "a <<b>>"}]


@pytest.fixture
def server():
    with serving() as own:
        yield own


def client(server, **more):
    return ChatClient(server.url, "rules", **{"pause": 0.01, **more})


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    texts = []
    for i in range(120):
        text = [f" w{k}" for k in rng.integers(0, 50, 8)] + [f" end{i}"]
        if i % 3 == 0:
            text[rng.integers(1, 7)] = [" cat", " dog"][i % 2]
        texts.append(text)
    tokens = Tokens.of(texts)
    activity = np.isin([p.strip() for p in tokens.pieces], ["cat", "dog"]).astype(float)[:, None]
    return windows_of(activity, tokens, Split.of(tokens), 0, width=9, n_scoring=12, name="planted[0]")


def test_a_unit_is_explained_and_the_explanation_scores_on_other_texts(server, examples, tmp_path):
    asking = client(server, cache=tmp_path / "replies.jsonl", price=(1.0, 2.0))
    told = []
    [found] = explain(asking, [examples[0]], before=told.append)
    assert found.text == 'the tokens "cat", "dog"'
    assert found.made_on == {w.doc for w in examples[0].active}
    assert told[0].requests == 1
    assert told[0].tokens_in >= 0.8 * found.facts["tokens_in"] > 0
    judge = LLMJudge(asking)
    for score in (detection, fuzzing, simulation):
        result = score(found, examples[1], judge, n_boot=50)
        assert result.value == pytest.approx(1)
        assert result.judge == "rules (prompts 1, 1 at once)"
        assert result.failed == 0
    assert asking.spent.requests == len(server.requests)
    assert asking.spent.money == pytest.approx((asking.spent.tokens_in + 2 * asking.spent.tokens_out) / 1e6)


def test_several_windows_at_once_give_the_same_and_fewer_requests(server, examples):
    asking = client(server)
    [found] = explain(asking, [examples[0]])
    one, many = (detection(found, examples[1], LLMJudge(asking, at_once=k), n_boot=20).value for k in (1, 5))
    assert one == many == 1


def test_what_was_answered_is_never_asked_again(server, examples, tmp_path):
    path = tmp_path / "replies.jsonl"
    first = client(server, cache=path)
    [found] = explain(first, [examples[0]])
    detection(found, examples[1], LLMJudge(first), n_boot=20)
    sent = len(server.requests)
    again = client(server, cache=path)
    [same] = explain(again, [examples[0]])
    assert same == found
    detection(same, examples[1], LLMJudge(again), n_boot=20)
    assert len(server.requests) == sent
    assert again.spent.requests == 0
    assert again.spent.cached == sent
    assert again.estimate([explain_messages(examples[0])]).requests == 0
    other = ChatClient(server.url, "another", cache=path)
    explain(other, [examples[0]])
    assert len(server.requests) == sent + 1


def test_a_killed_run_resumes_behind_its_last_whole_line(server, tmp_path):
    path = tmp_path / "replies.jsonl"
    asking = client(server, cache=path)
    asking.ask(HELLO)
    asking.ask([HELLO[0], {"role": "user", "content": "c <<d>>"}])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    resumed = client(server, cache=path)
    assert resumed.ask(HELLO).cached
    assert not resumed.ask([HELLO[0], {"role": "user", "content": "c <<d>>"}]).cached
    assert path.read_bytes() == whole
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(PatchclampError, match="line 1"):
        client(server, cache=path).ask(HELLO)


def test_a_busy_server_is_asked_again_and_a_refusal_is_named(server):
    server.refuse = [(503, {}), (429, {"Retry-After": "0"}), (500, {})]
    assert client(server).ask(HELLO).text.endswith('"b"')
    assert len(server.requests) == 4
    server.refuse = [(401, {})]
    with pytest.raises(PatchclampError, match="status 401.*OPENAI_API_KEY"):
        client(server).ask(HELLO)
    assert len(server.requests) == 5
    server.refuse = [(503, {})] * 3
    with pytest.raises(PatchclampError, match="after 3 tries"):
        client(server, retries=2).ask(HELLO)


def test_no_server_and_no_url_are_named():
    with pytest.raises(PatchclampError, match="is the server running"):
        ChatClient("http://127.0.0.1:9/v1", "x", retries=1, pause=0.01).ask(HELLO)
    with pytest.raises(PatchclampError, match="give base_url"):
        ChatClient("nowhere", "x", retries=0).ask(HELLO)


@pytest.mark.parametrize("raw", [b'{"choices": []}', b"[]", b'{"error": "x"}'])
def test_a_reply_that_is_none_is_named(server, raw):
    server.raw = raw
    with pytest.raises(PatchclampError, match="no chat completion"):
        client(server).ask(HELLO)


def test_the_key_is_sent_and_never_written(server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-value")
    path = tmp_path / "replies.jsonl"
    client(server, cache=path, key_env="A_KEY").ask(HELLO)
    client(server, key_env="NO_SUCH_KEY").ask(HELLO)
    assert server.headers[0]["Authorization"] == "Bearer secret-value"
    assert "Authorization" not in server.headers[1]
    assert "secret" not in path.read_text()


def test_a_model_that_cannot_answer_gives_no_number(examples):
    with serving(lambda system, user: "I would rather not.") as server:
        asking = client(server)
        [found] = explain(asking, [examples[0]])
        assert found.text == ""
        assert found.facts["failed"]
        with pytest.raises(PatchclampError, match="empty"):
            detection(found, examples[1], LLMJudge(asking))
    with serving(lambda system, user: "Explanation: cats" if "Explanation" in system else "[2]") as server:
        asking = client(server)
        [found] = explain(asking, [examples[0]])
        result = detection(found, examples[1], LLMJudge(asking), n_boot=20)
        assert np.isnan(result.value)
        assert result.failed == result.n


def test_signs_in_the_text_are_no_marks():
    assert marked([" a", " <<b>>", " c"], [False, False, True]) == " a < <b> ><< c>>"
    assert marked([" <", "< x"], [True, False]).count("<<") == 1
    assert marked(["a", "b", "c"], [True, True, False]) == "<<ab>>c"


def test_activity_is_listed_in_tenths_of_the_largest(examples):
    user = explain_messages(examples[0], contrast=2)[1]["content"]
    assert '"cat": 10' in user
    assert user.count("Silent: ") == 2
    assert "<<" not in user.split("Silent: ", 1)[1]


@pytest.mark.parametrize(
    ("reply", "n", "values"),
    [
        ("[1, 0, 1]", 3, [1, 0, 1]),
        ("x [9] then [0,1]", 2, [0, 1]),
        ("[a] [1.0]", 1, [1]),
        ("[1, 0]", 1, None),
    ],
)
def test_lists_are_read_or_missing(reply, n, values):
    found = read_list(reply, n)
    assert np.isnan(found).all() if values is None else found.tolist() == values


def test_the_last_explanation_counts():
    assert read_explanation("Explanation: one\nExplanation: **two**") == "two"
    assert read_explanation("none") is None


def test_the_cache_is_json_lines(server, tmp_path):
    path = tmp_path / "sub" / "replies.jsonl"
    client(server, cache=path).ask(HELLO)
    record = json.loads(path.read_text())
    assert set(record) == {"key", "request", "reply"}
    assert record["request"]["messages"] == HELLO
