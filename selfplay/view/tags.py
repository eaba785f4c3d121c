"""Words that people put on conversations and turns: annotations of kind "tag", appended and never taken out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.line_files import LineFile, line_from_json
from selfplay.records_json import annotation_to_json
from selfplay.run_folder import ANNOTATIONS, now
from selfplay.view.safety import RequestError
from selfplay.whole_files import reason

__all__ = ["add_tag", "tags_of"]

KIND = "tag"
MOST_CHARACTERS = 40


def add_tag(
    folder: Path, record: Mapping[str, Any], request: Mapping[str, Any], *, person: str
) -> list[dict[str, Any]]:
    """Append what a request says of a conversation: {"turn": number or None, "tag": words, "remove": bool}.

    Returns the tags that the conversation has then, as `tags_of`.
    Raises RequestError if it says what cannot be, or the folder cannot be written.
    """
    data = {"tag": _tag(request.get("tag")), "remove": request.get("remove") is True}
    turn = _turn(request.get("turn"), num_turns=len(record["turns"]))
    line = annotation_to_json(record["id"], by=f"person:{person}", kind=KIND, data=data, turn=turn, at=now())
    path = folder / f"{ANNOTATIONS}.jsonl"
    try:
        file = LineFile(path)
        try:
            file.append(_break_before(path) + line_from_json(line))
        finally:
            file.close()
    except OSError as error:
        raise RequestError(f"cannot write {path}: {reason(error)}", status=409) from error
    return tags_of({**record, "annotations": [*(record.get("annotations") or ()), line]})


def tags_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tags that a conversation has now, in the order in which they came: {"turn", "tag", "by", "at"}."""
    tags: dict[tuple[object, str], dict[str, Any]] = {}
    for tag in record.get("tags") or ():
        tags[None, str(tag)] = {"turn": None, "tag": str(tag), "by": None, "at": None}
    for annotation in record.get("annotations") or ():
        turn = annotation.get("turn")
        # What other programs wrote may be anything.
        if annotation.get("kind") != KIND or (turn is not None and type(turn) is not int):
            continue
        tag = str(annotation["data"].get("tag"))
        tags.pop((turn, tag), None)
        if not annotation["data"].get("remove"):
            tags[turn, tag] = {"turn": turn, "tag": tag, "by": annotation.get("by"), "at": annotation.get("at")}
    return list(tags.values())


def _tag(value: object) -> str:
    tag = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(tag) <= MOST_CHARACTERS or not tag.isprintable():
        raise RequestError(f"a tag is 1 to {MOST_CHARACTERS} printable characters")
    return tag


def _turn(value: object, *, num_turns: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < num_turns:
        raise RequestError(f"the conversation has no turn {value!r}; it has {num_turns}")
    return value


def _break_before(path: Path) -> bytes:
    """Return what keeps a line apart from half a line that a killed writer left."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return b""
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"
