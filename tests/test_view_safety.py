"""Attacks on the server of the page, each as a stranger would try it."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks.stored_run import write_run
from selfplay.errors import UserError
from selfplay.view.safety import Policy
from selfplay.view.server import create_app, listen

PORT = 8600
HERE = f"http://127.0.0.1:{PORT}"
WRITE = {"X-Selfplay": "1"}
TOKEN = "correct-horse-battery"
SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("stored") / "chat", conversations=24, steps=2, turns=4)


@pytest.fixture
def runs(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "runs" / "chat")
    (tmp_path / "secret.json").write_text(json.dumps({"text": SECRET}))
    return tmp_path / "runs"


def client_of(runs, *folders, **options):
    return TestClient(create_app(runs, folders, **options), base_url=HERE)


@pytest.fixture
def client(runs):
    return client_of(runs)


def first_id(client, run="chat"):
    return client.get(f"/api/r/{run}/conversations").json()["rows"][0][0]


def tag(client, **headers):
    body = {"conversation": first_id(client), "turn": None, "tag": "odd", "remove": False}
    return client.post("/api/r/chat/tags", json=body, headers=headers)


def annotations(runs):
    return (runs / "chat" / "annotations.jsonl").read_bytes()


# ----- who may ask -----


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_server_when_called_by_its_names_then_answers(client, host):
    assert client.get("/api/runs", headers={"Host": f"{host}:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8600",
        "127.0.0.1",
        "127.0.0.1:80",
        "localhost:8601",
        "localhost.evil.example:8600",
        "evil.example@localhost:8600",
        "localhost:8600@evil.example",
        "localhost:8600,evil.example",
        "127.0.0.1.nip.io:8600",
        "0.0.0.0:8600",
        "[::1:8600",
        "",
    ],
)
def test_server_when_name_was_rebound_to_it_then_refuses_everything(client, host):
    for path in ("/", "/api/runs", "/static/app.js", "/r/chat"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, "chat" in answer.text) == (403, False)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost:8600", "http://localhost:3000", "http://localhost"]
)
def test_server_when_another_site_asks_then_refuses(client, runs, origin):
    before = annotations(runs)
    assert client.get("/api/runs", headers={"Origin": origin}).status_code == 403
    assert tag(client, **WRITE, Origin=origin).status_code == 403
    assert annotations(runs) == before


def test_server_when_another_site_embeds_it_without_origin_then_refuses(client):
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/r/chat/conversations", headers=embedded).status_code == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/r/chat", headers=followed).status_code == 200


def test_server_when_its_own_page_asks_then_answers_and_allows_nobody_else(client):
    answer = client.get("/api/runs", headers={"Origin": f"http://localhost:{PORT}", "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


# ----- what may be written -----


def test_tag_when_header_is_there_then_is_stored(client, runs):
    before = annotations(runs)
    assert tag(client, **WRITE).status_code == 200
    assert annotations(runs).startswith(before)
    assert json.loads(annotations(runs).splitlines()[-1])["data"] == {"tag": "odd", "remove": False}


def test_write_when_header_or_kind_is_missing_then_is_refused(client, runs):
    before, body = annotations(runs), json.dumps({"conversation": first_id(client), "tag": "odd"})
    assert tag(client).status_code == 403
    assert tag(client, **{"X-Selfplay": "0"}).status_code == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post("/api/r/chat/tags", content=body, headers={**WRITE, "Content-Type": kind})
        assert answer.status_code == 415
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/api/r/chat/tags", headers=WRITE).status_code == 405
    assert client.get("/api/r/chat/tags", headers=WRITE).status_code == 404
    assert annotations(runs) == before


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000, b'{"tag": NaN', b'{"x":"' + b"y" * 70_000 + b'"}']
)
def test_write_when_body_is_no_small_object_then_is_refused(client, runs, body):
    before = annotations(runs)
    answer = client.post("/api/r/chat/tags", content=body, headers={**WRITE, "Content-Type": "application/json"})
    assert answer.status_code in (400, 413)
    assert answer.json()["error"]
    assert annotations(runs) == before


def test_write_when_body_comes_in_pieces_without_length_then_is_limited_too(client):
    pieces = (b"x" * 1024 for _ in range(200))
    answer = client.post("/api/r/chat/tags", content=pieces, headers={**WRITE, "Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("words", ["", " ", "x" * 41, "a\nb", "a\x1b[2Jb", "a\u202eb", 7, None, ["x"]])
def test_tag_when_it_is_not_printable_or_too_long_then_is_refused(client, runs, words):
    before = annotations(runs)
    body = {"conversation": first_id(client), "turn": None, "tag": words}
    assert client.post("/api/r/chat/tags", json=body, headers=WRITE).status_code == 400
    assert annotations(runs) == before


@pytest.mark.parametrize("turn", [-1, 4000, "0", True, 1.5, {}])
def test_tag_when_turn_is_not_there_then_is_refused(client, turn):
    body = {"conversation": first_id(client), "turn": turn, "tag": "odd"}
    assert client.post("/api/r/chat/tags", json=body, headers=WRITE).status_code == 400


@pytest.mark.parametrize("person", ["../x", "person:root", "x\ny", "A", 7, "x" * 41])
def test_write_when_person_is_no_plain_word_then_is_refused(client, runs, person):
    body = {"conversation": first_id(client), "tag": "odd", "token": "x", "choice": "left", "person": person}
    for path in ("tags", "label", "undo"):
        assert client.post(f"/api/r/chat/{path}", json=body, headers=WRITE).status_code == 400
    assert (
        not (runs / "chat" / "preferences.jsonl").exists()
        or "root" not in (runs / "chat/preferences.jsonl").read_text()
    )


# ----- what may be read -----

PATHS = [
    "%2e%2e",
    "%2e%2e%2f",
    "..%2f..%2fsecret.json",
    "%252e%252e",
    "..%5c..",
    "chat%2f..%2f..",
    "%2fetc",
    "%2e",
    "chat%00",
    "%00",
    "chat%2f",
    "CHAT%20",
    "%c0%ae%c0%ae",
    "~",
    "C:",
]


@pytest.mark.parametrize("name", PATHS)
def test_run_when_name_is_a_path_then_is_not_found(client, name):
    for rest in ("", "/conversations", "/metrics", "/versions", "/events", "/export?to=json"):
        answer = client.get(f"/api/r/{name}{rest}")
        assert answer.status_code in (400, 404)
        assert SECRET not in answer.text
        assert "root:" not in answer.text
    assert client.get("/api/compare", params={"a": f"{name}@0", "b": "chat@0"}).status_code in (400, 404)


@pytest.mark.parametrize("name", [*PATHS, "x" * 300, "'; DROP TABLE conversations; --", "000000%0a"])
def test_conversation_when_id_is_a_path_then_is_not_found(client, name):
    for rest in ("", "/tokens"):
        answer = client.get(f"/api/r/chat/c/{name}{rest}")
        assert answer.status_code == 404
        assert SECRET not in answer.text


@pytest.mark.parametrize("name", [*PATHS, "run.json", "..%2frun", "A" * 16, "0" * 15, "0" * 65, "..%2fconfig.yaml%00"])
def test_source_when_digest_is_a_path_then_is_not_found(client, name):
    assert client.get(f"/api/r/chat/source/{name}").status_code == 404


@pytest.mark.parametrize("path", ["..%2fserver.py", "%2e%2e/server.py", "..%5cserver.py", "%2fetc%2fpasswd", "x%00.js"])
def test_static_when_path_leads_out_then_is_not_found(client, path):
    answer = client.get(f"/static/{path}")
    assert answer.status_code == 404
    assert "def " not in answer.text


def test_runs_when_a_folder_is_a_link_out_of_the_runs_folder_then_is_not_listed_unless_named(stored, runs):
    (runs / "linked").symlink_to(stored)
    client = client_of(runs)
    assert [run["run"] for run in client.get("/api/runs").json()["runs"]] == ["chat"]
    assert client.get("/api/r/linked").status_code == 404
    named = client_of(runs, stored)
    # Two runs are called chat: the one that was named is the first, and what is shown first.
    assert [run["run"] for run in named.get("/api/runs").json()["runs"]] == ["chat", "chat~2"]
    assert named.get("/api/runs").json()["default"] == "chat"
    assert named.get("/api/r/chat").json()["path"] == str(stored)
    assert named.get("/api/r/chat~2").json()["path"] == str(runs / "chat")


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "annotations.jsonl",
        "alarms.jsonl",
        "evaluation.json",
        "preferences.jsonl",
        "conversations/train-000.jsonl",
        "tokens/000.jsonl",
        "conversations",
        "sources",
        "tokenizers",
        "index.sqlite",
    ],
)
def test_run_when_a_file_in_it_leads_out_then_is_not_served(runs, tmp_path, name):
    outside, inside = tmp_path / "outside", runs / "chat" / name
    if inside.exists():
        shutil.move(inside, outside)
    else:
        outside.write_bytes(b"")
    inside.symlink_to(outside)
    client, before = client_of(runs), _content(outside)
    assert client.get("/api/runs").json()["runs"] == []
    for path in ("", "/conversations", "/metrics", "/export?to=json", "/pair", "/events", "/versions"):
        answer = client.get(f"/api/r/chat{path}")
        assert answer.status_code == 403
        assert "leads outside" in answer.json()["error"]
    for path in ("tags", "undo", "label"):
        assert client.post(f"/api/r/chat/{path}", json={}, headers=WRITE).status_code == 403
    assert _content(outside) == before


def _content(path: Path):
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def test_source_when_it_is_a_link_out_of_the_run_then_is_not_served(runs, tmp_path):
    (runs / "chat" / "sources").mkdir(exist_ok=True)
    (runs / "chat" / "sources" / f"{'0' * 16}.py").symlink_to(tmp_path / "secret.json")
    answer = client_of(runs).get(f"/api/r/chat/source/{'0' * 16}")
    assert answer.status_code in (403, 404)
    assert SECRET not in answer.text


def test_run_when_it_holds_plug_ins_then_none_is_imported(runs, tmp_path):
    run, trap = runs / "chat", tmp_path / "trapped"
    text = f'"""x"""\nopen({str(trap)!r}, "w")\n\n\ndef mine(turn):\n    """What is said here."""\n'
    (run / "sources").mkdir(exist_ok=True)
    (run / "sources" / f"{'0' * 16}.py").write_text(text)
    for name in ("sitecustomize.py", "rewards.py", "envs.py", "conftest.py", "mine.py"):
        (run / name).write_text(text)
    manifest = json.loads((run / "run.json").read_text())
    manifest["sources"] = {"reward mine": f"sha256:{'0' * 16}"}
    (run / "run.json").write_text(json.dumps(manifest))
    (run / "config.yaml").write_text(f"rewards:\n  mine: {{name: '{run}/mine.py:mine', weight: 1.0}}\n")
    client = client_of(runs)
    rewards = client.get("/api/r/chat").json()["rewards"]
    assert (rewards[0]["label"], rewards[0]["summary"]) == ("mine", "What is said here.")
    assert client.get(f"/api/r/chat/source/{'0' * 16}").text == text
    assert not trap.exists()


def test_run_when_its_yaml_asks_for_python_then_that_is_text(runs, tmp_path):
    trap = tmp_path / "trapped"
    (runs / "chat" / "config.yaml").write_text(f"rewards: !!python/object/apply:os.system ['touch {trap}']\n")
    answer = client_of(runs).get("/api/r/chat")
    assert answer.json()["rewards"] == []
    assert not trap.exists()


def test_run_when_its_yaml_is_a_bomb_then_answers_at_once(runs):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    bomb = [
        "a0: &a0 [lol]",
        *levels,
        "rewards: {x: {name: *a39, role: *a39, weight: *a39}, y: *a39}",
        "kl: {place: *a39}",
    ]
    client = client_of(runs)
    client.get("/api/r/chat")
    (runs / "chat" / "config.yaml").write_text("\n".join(bomb))
    rewards = client.get("/api/r/chat").json()["rewards"]
    assert [(reward["name"], reward["weight"]) for reward in rewards] == [("x", None), ("y", None)]


# ----- what every answer says -----


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/nothing", "/r/chat/c/x", "/static/nothing.js"])
def test_answer_always_says_what_the_browser_may_do(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"] == (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] in ("no-store", "no-cache")


def test_answer_of_the_api_is_never_kept_and_a_refusal_has_the_headers_too(client):
    assert client.get("/api/runs").headers["cache-control"] == "no-store"
    refused = client.get("/api/runs", headers={"Host": "evil.example"})
    assert "content-security-policy" in refused.headers
    assert client.get("/api/r/chat/source/x").headers["content-type"] == "application/json"


def test_source_when_it_is_a_page_then_stays_text(runs):
    digest = "a" * 16
    (runs / "chat" / "sources").mkdir(exist_ok=True)
    (runs / "chat" / "sources" / f"{digest}.py").write_text("<script>alert(1)</script>")
    answer = client_of(runs).get(f"/api/r/chat/source/{digest}")
    assert answer.headers["content-type"].startswith("text/plain")


# ----- other machines -----


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", "127.0.0.1.evil.example"])
def test_policy_when_others_could_reach_it_then_asks_for_a_token(host):
    with pytest.raises(UserError, match="token="):
        Policy(host=host, port=PORT)
    with pytest.raises(UserError, match="8 to 200"):
        Policy(host=host, port=PORT, token="short")
    assert Policy(host=host, port=PORT, token=TOKEN).url.endswith(f"/?token={TOKEN}")


def test_token_when_it_is_missing_or_wrong_then_nothing_is_served(runs):
    client = client_of(runs, token=TOKEN)
    for path in ("/", "/api/runs", "/static/app.js", "/api/r/chat/events", "/r/chat"):
        for query in ("", "?token=", "?token=wrong-horse-battery", f"?token={TOKEN}x", "?token=%ff"):
            answer = client.get(path + query)
            assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert client.get("/api/runs", headers={"Cookie": f"selfplay_{PORT}=wrong"}).status_code == 403


def test_token_when_it_is_right_then_becomes_a_strict_cookie_and_leaves_the_address(runs):
    client = client_of(runs, token=TOKEN)
    entrance = client.get(f"/r/chat/list?token={TOKEN}&q=a%26b")
    assert entrance.headers["refresh"] == "0; url=/r/chat/list?q=a%26b"
    assert TOKEN not in entrance.text
    cookie = entrance.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/runs").status_code == 200


def test_token_when_address_names_another_server_then_stays_here(runs):
    client = client_of(runs, token=TOKEN)
    for path in ("//evil.example/", "/\\evil.example/", "///evil.example", "/%0d%0aSet-Cookie:x=y"):
        answer = client.get(f"{HERE}{path}?token={TOKEN}")
        target = answer.headers.get("refresh", "0; url=/x").partition("url=")[2]
        assert target.startswith("/")
        assert not target.startswith(("//", "/\\"))
        assert "\r" not in target
        client.cookies.clear()


def test_server_when_it_listens_everywhere_then_answers_to_numbers_and_its_own_name(runs):
    client = client_of(runs, host="0.0.0.0", token=TOKEN)
    for host in (f"192.168.1.5:{PORT}", f"{socket.gethostname()}:{PORT}", f"localhost:{PORT}"):
        assert client.get(f"/api/runs?token={TOKEN}", headers={"Host": host}).status_code == 200
    assert client.get(f"/api/runs?token={TOKEN}", headers={"Host": f"evil.example:{PORT}"}).status_code == 403


def test_listen_by_default_is_reached_from_this_machine_only():
    with listen("127.0.0.1", 0) as place:
        assert place.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UserError, match="is taken"):
            listen("127.0.0.1", place.getsockname()[1])
