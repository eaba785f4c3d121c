"""The transcript page as one file that opens from disk: it holds its data, and asks nobody for anything.

What the server would answer is stored as it would answer it; offline.js filters and sorts.  Everything of the run is
inside a JSON block in which no character can end it, and reaches the page as text.
Lost: labelling, comparisons but for the first against the newest version, tokens unless they are asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selfplay.errors import UserError
from selfplay.export.chosen import Chosen
from selfplay.export.page import bundle, static_folder, style
from selfplay.export.private import without_private, without_private_tokens
from selfplay.export.request import Request, Result

__all__ = ["write_html"]

UNQUOTED = "!*'()"  # what JavaScript's encodeURIComponent leaves as it is, besides what `quote` leaves
# Of what a run's answer says, what may quote what a role alone was told, or names folders of this machine.
PRIVATE_OF_RUN = {"config": "", "command": None}

MOST_SCENARIOS = 300  # of a comparison that is held for each part too


def write_html(chosen: Chosen, draft: Path, request: Request) -> Result:
    """Write the page."""
    script, sheet = bundle(static_folder()), style(static_folder())
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(sheet)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<title>selfplay</title>\n'
        f"<style>{sheet}</style>\n</head>\n<body>\n"
        "<noscript>This page needs JavaScript.</noscript>\n"
        '<script type="application/json" id="selfplay-data">'
    )
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head)
        for piece in _data(chosen, request):
            file.write(piece)
        file.write(f"</script>\n<script>{script}</script>\n</body>\n</html>\n")
    return Result(path=draft, num=len(chosen.ids), noun="conversation")


def safe_json(value: Any) -> str:
    """Return JSON that no HTML parser can mistake for markup, nor JavaScript for a line's end."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _data(chosen: Chosen, request: Request) -> Iterator[str]:
    """Yield the pieces of one JSON object: {"run", "name", "answers": {path: answer}, "rows", "conversations"}."""
    from selfplay.export.answers import Answers

    asked = Answers(chosen.folder)
    run = f"/api/r/{quote(asked.run, safe=UNQUOTED)}"
    yield f'{{"run":{safe_json(asked.run)},"where":{safe_json(chosen.where)},"answers":{{'
    yield ",\n".join(f"{safe_json(path)}:{safe_json(answer)}" for path, answer in _answers(asked, run, chosen))
    yield '},\n"rows":['
    for number, row in enumerate(chosen.rows()):
        yield (",\n" if number else "") + safe_json(asked.plain(row))
    yield '],\n"conversations":{'
    for number, id in enumerate(chosen.ids):
        found = asked.get(f"{run}/c/{quote(id, safe='')}")
        answer = {**_conversation(found, chosen, has_tokens=request.has_tokens), **_around(chosen.ids, number)}
        yield (",\n" if number else "") + f"{safe_json(id)}:{safe_json(answer)}"
    yield '},\n"tokens":{'
    is_first = True
    for id in chosen.ids if request.has_tokens else ():
        if chosen.index.has_tokens(id):
            answer = asked.get(f"{run}/c/{quote(id, safe='')}/tokens")
            kept = answer if chosen.has_private else without_private_tokens(answer)
            yield ("" if is_first else ",\n") + f"{safe_json(id)}:{safe_json(kept)}"
            is_first = False
    yield "}}"


def _answers(asked: Any, run: str, chosen: Chosen) -> Iterator[tuple[str, Any]]:
    """Yield what is asked for once, by path."""
    answer = asked.get(run)
    private = {} if chosen.has_private else PRIVATE_OF_RUN
    yield run, {**answer, "path": answer["run"], "readonly": True, "is_live": False, **private}
    yield f"{run}/metrics", asked.get(f"{run}/metrics")
    for path in (f"{run}/versions", *_compared(asked, run, chosen.info.parts)):
        found = _or_none(asked, path)
        if found is not None:
            yield path, found


def _compared(asked: Any, run: str, parts: Sequence[str]) -> list[str]:
    """Return the paths of the comparison of the first with the newest version: by the reward, and by each part."""
    versions = (_or_none(asked, f"{run}/versions") or {}).get("versions", ())
    if len(versions) < 2:
        return []
    name, numbers = quote(asked.run, safe=""), [one["version"] for one in versions]
    path = f"/api/compare?a={name}%40{min(numbers)}&b={name}%40{max(numbers)}"
    by_parts = [f"{path}&part={quote(part, safe='')}" for part in parts]
    return [path, *(by_parts if max(one["scenarios"] for one in versions) <= MOST_SCENARIOS else ())]


def _or_none(asked: Any, path: str) -> Any:
    try:
        return asked.get(path)
    except UserError:  # such as: only one version was evaluated
        return None


def _conversation(answer: Mapping[str, Any], chosen: Chosen, *, has_tokens: bool) -> dict[str, Any]:
    id = answer["record"]["id"]
    # The run's folder is nobody's business, and the labels are the people's who gave them.
    replay = f"selfplay play from={chosen.name}/{id} turn={{turn}}" if chosen.has_private else ""
    kept = {**answer, "has_tokens": bool(answer.get("has_tokens")) and has_tokens, "labels": [], "replay": replay}
    return kept if chosen.has_private else {**kept, "record": without_private(answer["record"])}


def _around(ids: Sequence[str], number: int) -> dict[str, str | None]:
    """Return the ids before and after one of those that the file holds."""
    return {"previous": ids[number - 1] if number else None, "next": ids[number + 1] if number + 1 < len(ids) else None}
