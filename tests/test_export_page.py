import json
import re
from pathlib import Path

import pytest
from six_conversations import IDS, write_six
from view_pages import browsing

from selfplay.export import Request, export
from selfplay.export.html import safe_json
from selfplay.export.page import BundleError, bundle, static_folder

CASES = json.loads((Path(__file__).parent / "data" / "filter_cases.json").read_text(encoding="utf-8"))
EVIL = "</script><script>alert(1)</script><!-- \u2028 &lt;b>"


def page_of(tmp_path, **settings):
    out = tmp_path / "six.html"
    if not out.exists():
        export(write_six(tmp_path / "runs" / "six"), Request(to="html", out=out, **settings))
    return out


def data_of(page):
    found = re.search(
        r'<script type="application/json" id="selfplay-data">(.*?)</script>', page.read_text("utf-8"), re.S
    )
    return json.loads(found[1])


def test_all_modules_of_the_page_can_be_put_into_one_script():
    script = bundle(static_folder())
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert script.rindex("navigate();") > script.index("SELFPLAY_OFFLINE")


def test_forms_of_import_that_are_not_understood_are_refused(tmp_path):
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "uPlot.esm.js").write_text("const p = 1;\nexport { p as default };\n")
    (tmp_path / "offline.js").write_text("export const a = 1;\n")
    (tmp_path / "app.js").write_text('import * as all from "./offline.js";\n')
    with pytest.raises(BundleError, match="not understood"):
        bundle(tmp_path)


def test_json_block_cannot_be_ended_by_what_it_holds():
    text = safe_json({EVIL: EVIL})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {EVIL: EVIL}


def test_page_holds_its_conversations_and_no_address_of_others(tmp_path):
    page = page_of(tmp_path, where="split=train")
    assert set(data_of(page)["conversations"]) == {IDS[0], IDS[1], IDS[2], IDS[4], IDS[5]}
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=[\"']?https?:", text)
    assert str(tmp_path) not in text


def test_page_holds_of_a_conversation_what_the_server_answers(tmp_path):
    from selfplay.export.answers import Answers

    held = data_of(page_of(tmp_path, has_tokens=True))["conversations"]
    asked = Answers(tmp_path / "runs" / "six")
    for id in IDS:
        answered = asked.get(f"/api/r/six/c/{id}")
        assert {**held[id], "replay": ""} == {**answered, "replay": ""}
        assert held[id]["replay"] == f"selfplay play from=six/{id} turn={{turn}}"


def test_page_without_private_says_no_secret(tmp_path):
    run = write_six(tmp_path / "runs" / "six", config="env: {personas: {host: a secret}}\n")
    export(run, Request(to="html", out=tmp_path / "six.html", has_private=False, has_tokens=True))
    data = json.dumps(data_of(tmp_path / "six.html"))
    assert "secret" not in data
    assert "likes 0" not in data
    tokens = data_of(tmp_path / "six.html")["tokens"]
    assert tokens[IDS[0]]["turns"]
    assert all(turn["heard"] == [] for answer in tokens.values() for turn in answer["turns"])


@pytest.mark.browser
def test_page_opened_from_disk_filters_as_the_index_does(tmp_path):
    page_of(tmp_path)
    script = """async (queries) => {
      const path = "/api/r/six/conversations?limit=200&q=";
      const asked = queries.map((q) => SELFPLAY_OFFLINE.get(path + encodeURIComponent(q)));
      return (await Promise.allSettled(asked)).map((found) => found.value?.rows.map((row) => row[0]) ?? null);
    }"""
    with browsing((tmp_path / "six.html").as_uri()) as watched:
        found = watched.open("#/r/six/list").evaluate(script, [case["q"] for case in CASES])
    answers = {case["q"]: rows for case, rows in zip(CASES, found, strict=True)}
    wanted = {case["q"]: case.get("ids") for case in CASES}
    assert {
        q: rows and sorted(map(IDS.index, rows)) if rows is not None else None for q, rows in answers.items()
    } == wanted


@pytest.mark.browser
@pytest.mark.parametrize("sort", ["newest", "oldest", "reward", "turns", "surprise", "reward.praise"])
@pytest.mark.parametrize("order", ["", "asc", "desc"])
def test_page_opened_from_disk_sorts_as_the_index_does(sort, order, sorted_pages):
    told, index = sorted_pages
    for by_scenario in (False, True):
        rows = index.page(
            "", sort=sort, descending=None if not order else order == "desc", by_scenario=by_scenario
        ).rows
        assert told[f"{sort} {order} {int(by_scenario)}"] == [row.id for row in rows]


@pytest.fixture(scope="module")
def sorted_pages(tmp_path_factory):
    from selfplay.transcript_index import TranscriptIndex

    folder = tmp_path_factory.mktemp("sorted")
    page = page_of(folder)
    keys = [
        f"{sort} {order} {by}"
        for sort in ("newest", "oldest", "reward", "turns", "surprise", "reward.praise")
        for order in ("", "asc", "desc")
        for by in (0, 1)
    ]
    script = """async (keys) => Object.fromEntries(await Promise.all(keys.map(async (key) => {
      const [sort, order, by_scenario] = key.split(" ");
      const words = new URLSearchParams({ sort, order, by_scenario });
      const found = await SELFPLAY_OFFLINE.get("/api/r/six/conversations?" + words);
      return [key, found.rows.map((row) => row[0])];
    })))"""
    with browsing(page.as_uri()) as watched:
        told = watched.open("#/r/six/list").evaluate(script, keys)
    index = TranscriptIndex(folder / "runs" / "six")
    index.refresh()
    yield told, index
    index.close()


@pytest.mark.browser
@pytest.mark.parametrize("has_private", [True, False])
def test_page_opened_from_disk_shows_its_pages_and_asks_nobody(tmp_path, has_private):
    page = page_of(tmp_path, has_private=has_private)
    with browsing(page.as_uri()) as watched:
        shown = watched.open("#/r/six/list?q=reward%3E1")
        shown.get_by_text("2 of 6").wait_for()
        shown = watched.open(f"#/r/six/c/{IDS[0]}")
        shown.get_by_text("What do you like?").first.wait_for()
        for path in ("#/", "#/r/six", "#/r/six/metrics"):
            watched.open(path).locator("main h1, main table").first.wait_for()
        assert watched.complaints == []
        assert watched.asked_elsewhere == []
