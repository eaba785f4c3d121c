"""The transcript page as one file that opens from disk: it holds its data, and asks nobody for anything.

What the server would answer is stored as it would answer it; offline.js filters and sorts.  Everything of the run is
inside a JSON block in which no character can end it, and reaches the page as text.
Lost: labelling, comparisons but for the first against the newest version, tokens unless they are asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from selfplay.errors import UserError
from selfplay.export.chosen import Chosen, clean
from selfplay.export.page import bundle, static_folder, style
from selfplay.export.private import (
    without_private_alarm,
    without_private_comparison,
    without_private_run,
    without_private_tokens,
)
from selfplay.export.request import Request, Result

if TYPE_CHECKING:
    from selfplay.export.answers import Answers

__all__ = ["write_html"]

UNQUOTED = "!*'()"  # what JavaScript's encodeURIComponent leaves as it is, besides what `quote` leaves
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
    # The server is not small, and the other targets do without.
    from selfplay.export.answers import Answers

    asked = Answers(chosen.folder)
    run = f"/api/r/{quote(asked.run, safe=UNQUOTED)}"
    where = chosen.where if chosen.has_private else ""
    yield f'{{"run":{safe_json(asked.run)},"where":{safe_json(clean(where))},"answers":{{'
    yield ",\n".join(f"{safe_json(path)}:{safe_json(clean(answer))}" for path, answer in _answers(asked, run, chosen))
    yield '},\n"rows":['
    for number, row in enumerate(chosen.rows()):
        yield (",\n" if number else "") + safe_json(asked.plain(row))
    yield '],\n"conversations":{'
    # The server would look at the whole folder anew for each.
    for number, id in enumerate(chosen.ids):
        answer = _conversation(id, asked, chosen, has_tokens=request.has_tokens)
        yield (",\n" if number else "") + f"{safe_json(id)}:{safe_json({**answer, **_around(chosen.ids, number)})}"
    yield '},\n"tokens":{'
    is_first = True
    for id in chosen.ids if request.has_tokens else ():
        if chosen.index.has_tokens(id):
            answer = asked.get(f"{run}/c/{quote(id, safe='')}/tokens")
            kept = answer if chosen.has_private else without_private_tokens(answer)
            yield ("" if is_first else ",\n") + f"{safe_json(id)}:{safe_json(clean(kept))}"
            is_first = False
    yield "}}"


def _answers(asked: Answers, run: str, chosen: Chosen) -> Iterator[tuple[str, Any]]:
    """Yield what is asked for once, by path."""
    answer, has_private = asked.get(run), chosen.has_private
    seen = {**answer, "path": answer["run"]} if has_private else without_private_run(answer)
    yield run, {**seen, "alarms_window": answer["alarms_window"], "readonly": True, "is_live": False}
    metrics = asked.get(f"{run}/metrics")
    alarms = metrics["alarms"] if has_private else [without_private_alarm(alarm) for alarm in metrics["alarms"]]
    yield f"{run}/metrics", {**metrics, "alarms": alarms}
    if seen.get("has_contests"):
        yield f"{run}/contests", asked.get(f"{run}/contests")
    versions = _or_none(asked, f"{run}/versions")
    if versions is not None:
        yield f"{run}/versions", versions
    for path in _compared(asked, run, chosen.info.parts):
        found = _or_none(asked, path)
        if found is not None:
            yield path, found if has_private else without_private_comparison(found)


def _compared(asked: Answers, run: str, parts: Sequence[str]) -> list[str]:
    """Return the paths of the comparison of the first with the newest version: by the reward, and by each part."""
    versions = (_or_none(asked, f"{run}/versions") or {}).get("versions", ())
    if len(versions) < 2:
        return []
    name, numbers = quote(asked.run, safe=""), [one["version"] for one in versions]
    path = f"/api/compare?a={name}%40{min(numbers)}&b={name}%40{max(numbers)}"
    by_parts = [f"{path}&part={quote(part, safe='')}" for part in parts]
    return [path, *(by_parts if max(one["scenarios"] for one in versions) <= MOST_SCENARIOS else ())]


def _or_none(asked: Answers, path: str) -> Any:
    try:
        return asked.get(path)
    except UserError:  # such as: only one version was evaluated
        return None


def _conversation(id: str, asked: Answers, chosen: Chosen, *, has_tokens: bool) -> dict[str, Any]:
    """Return what the server answers of a conversation, but for the labels; UserError: it can no longer be read."""
    from selfplay.view.tags import tags_of

    index, record = chosen.index, chosen.record(id)
    row = None if record is None else chosen.row(id)
    if record is None or row is None:
        raise UserError(f"conversation {id} of run {chosen.name} can no longer be read; nothing was written")
    # The run's folder is nobody's business, and the labels are the people's who gave them.
    replay = f"selfplay play from={chosen.name}/{id} turn={{turn}}" if chosen.has_private else ""
    return {
        "record": record,
        "row": asked.plain(row),
        "siblings": [{"id": sibling.id, "reward": sibling.reward} for sibling in index.siblings(id)],
        "group_mean": row.group_mean,
        "sources": (record.get("rewards") or {}).get("sources") or {},
        "tags": tags_of(record),
        "replay": clean(replay),
        "has_tokens": has_tokens and index.has_tokens(id),
        "labels": [],
    }


def _around(ids: Sequence[str], number: int) -> dict[str, str | None]:
    """Return the ids before and after one of those that the file holds."""
    return {"previous": ids[number - 1] if number else None, "next": ids[number + 1] if number + 1 < len(ids) else None}
