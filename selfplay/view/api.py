"""What the page asks for, as JSON: every number is finite or null, every refusal is a sentence."""

from __future__ import annotations

import functools
import json
import logging
import re
import shlex
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from selfplay import stored_tokenizer
from selfplay.commands.words import program_name
from selfplay.errors import UserError
from selfplay.game_numbers import unfitting_means
from selfplay.labelling import check_person, local_person
from selfplay.line_files import RecordError
from selfplay.paired import Side, compare_versions, split_reference, versions_of
from selfplay.paired_json import paired_to_json
from selfplay.preferences import preference_to_json, read_preferences
from selfplay.records_json import plain_json
from selfplay.run_folder import RUNS
from selfplay.transcript_index import Row
from selfplay.view.contests import contests_of
from selfplay.view.describe import described, kl_target, listed, plain, source_text, unreadable
from selfplay.view.labels import Labels
from selfplay.view.run_state import StateReader
from selfplay.view.runs import OpenRun, Runs
from selfplay.view.safety import RequestError, read_json
from selfplay.view.tags import add_tag, tags_of
from selfplay.whole_files import reason

__all__ = ["UNREADABLE", "Api", "json_response"]

MOST_ROWS = 200
MOST_QUERY = 4000  # characters
IDENTITY = re.compile(r"[\w.:@+~ -]{1,200}")
DIGEST = re.compile(r"[0-9a-f]{16,64}")
NUMBER = re.compile(r"[0-9]{1,12}")
DOWNLOADS: Mapping[Literal["csv", "html", "json"], str] = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
}
# What the list shows of a conversation: fields of its row, with the parts and roles in the order that is said once.
COLUMNS = (
    *("id", "step", "split", "scenario", "about", "players", "turns", "tokens", "reward", "values", "per_role"),
    *("advantage", "kl", "reason", "status", "flags", "first_words", "surprise", "disagreement", "group_mean"),
    *("version", "nll", "seconds"),
)
ARRAYS = ("logprobs", "logprobs_learner", "logprobs_reference", "kl", "entropy", "advantage", "value")
UNREADABLE = (OSError, EOFError, zlib.error, sqlite3.Error, RecordError)

Answer = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)


def json_response(data: Any, *, status: int = 200) -> Response:
    """Return data as JSON; numbers that are not finite become null."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(plain_json(data, decimals=None), allow_nan=False, separators=(",", ":"))
    return Response(text.encode("ascii"), status_code=status, media_type="application/json")


class Api:
    """The answers, for many threads; it holds nothing that the run folders do not say."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._states = StateReader()
        self._labels = Labels()
        self.person = local_person()

    def routes(self) -> list[Route]:
        """Return what is answered where."""
        reads: list[tuple[str, Callable[[Request], Any]]] = [
            ("/api/runs", self.list_runs),
            ("/api/r/{run}", self.run),
            ("/api/r/{run}/conversations", self.conversations),
            ("/api/r/{run}/c/{id}", self.conversation),
            ("/api/r/{run}/c/{id}/tokens", self.tokens),
            ("/api/r/{run}/metrics", self.metrics),
            ("/api/r/{run}/contests", self.contests),
            ("/api/r/{run}/source/{digest}", self.source),
            ("/api/r/{run}/export", self.export),
            ("/api/r/{run}/versions", self.versions),
            ("/api/compare", self.compare),
            ("/api/r/{run}/pair", self.pair),
        ]
        writes: list[tuple[str, Callable[[Request, Mapping[str, Any]], Any]]] = [
            ("/api/r/{run}/tags", self.tag),
            ("/api/r/{run}/label", self.label),
            ("/api/r/{run}/undo", self.undo),
        ]
        return [
            *(Route(path, _reading(answer), methods=["GET"]) for path, answer in reads),
            *(Route(path, _writing(answer), methods=["POST"]) for path, answer in writes),
            Route("/api/{rest:path}", _reading(_missing), methods=["GET", "POST"]),
        ]

    # ----- runs -----

    def list_runs(self, request: Request) -> dict[str, Any]:
        """Answer /api/runs: those that were named first, then the newest first."""
        rows = [self._listed(name, folder) for name, folder in self._runs.shown().items()]
        return {"runs": rows, "default": rows[0]["run"] if rows else None, "label_person": self.person}

    def run(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}: what the overview shows."""
        run = self._run(request)
        answer = described(run, self._states.read(run.folder))
        num_preferences = len(read_preferences(run.folder).preferences)
        return {**answer, "num_preferences": num_preferences, "indexing": run.is_indexing}

    def metrics(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/metrics: one series a metric, aligned with the steps; after=STEP leaves out the older."""
        # Curves need no index, which may take a minute to be made.
        run, after = self._runs.open(_name_of(request)), _number(request, "after", default=-1)
        with run.reading() as reader:
            lines, alarms, target = reader.metrics(), reader.alarms(), kl_target(reader)
        unfitting = sorted(unfitting_means(lines))
        lines = [line for line in lines if line["step"] > after]
        names = dict.fromkeys(name for line in lines for name in line if name not in ("schema", "step", "at"))
        series = {name: [_finite(line.get(name)) for line in lines] for name in names}
        steps = [line["step"] for line in lines]
        return {"steps": steps, "series": series, "alarms": alarms, "kl_target": target, "unfitting": unfitting}

    def contests(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/contests: what a tournament found, and how a league stands."""
        return contests_of(self._runs.folder(_name_of(request)))

    def source(self, request: Request) -> Response:
        """Answer /api/r/{run}/source/{digest}: a plug-in's source, to be read."""
        digest = request.path_params["digest"].removeprefix("sha256:")
        folder = self._runs.folder(_name_of(request))
        text = source_text(folder, digest) if DIGEST.fullmatch(digest) else None
        if text is None:
            raise RequestError("the run does not hold that source", status=404)
        return PlainTextResponse(text.encode("utf-8", "replace"))

    # ----- conversations -----

    def conversations(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/conversations: a page of the list."""
        run, query = self._run(request), _query(request)
        offset, limit = _number(request, "offset", default=0), _number(request, "limit", default=50)
        page = run.index.page(
            query,
            sort=request.query_params.get("sort") or "newest",
            descending=_order(request),
            offset=offset,
            limit=max(1, min(limit, MOST_ROWS)),
            by_scenario=request.query_params.get("by_scenario") == "1",
        )
        info = run.index.info()
        parts, roles = list(info.parts), list(info.roles)
        rows = [_cells(row, parts, roles) for row in page.rows]
        shape = {"parts": parts, "roles": roles, "columns": COLUMNS}
        counts = {"total": page.total, "of": page.of, "offset": offset, "indexing": run.is_indexing}
        return {**counts, **shape, "rows": rows}

    def conversation(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/c/{id}: all that is known of one conversation, but for its tokens."""
        run = self._run(request)
        id, record = self._record(run, request)
        row, siblings = run.index.row(id), run.index.siblings(id)
        previous, following = run.index.neighbours(id)
        return {
            "record": record,
            "row": plain(row),
            "siblings": [{"id": sibling.id, "reward": sibling.reward} for sibling in siblings],
            "group_mean": None if row is None else row.group_mean,
            "sources": (record.get("rewards") or {}).get("sources") or {},
            "tags": tags_of(record),
            "replay": self._replay(run, id),
            "has_tokens": run.index.has_tokens(id),
            "labels": _labels(run, id),
            "previous": previous,
            "next": following,
        }

    def tokens(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/c/{id}/tokens: every token with its text, and what is known of each one said."""
        run = self._run(request)
        id = _identity(request)
        record = run.index.tokens(id)
        if record is None:
            raise RequestError(f"run {run.name} stores no tokens of conversation {id}", status=404)
        digest = record.get("tokenizer")
        tokenizer = stored_tokenizer.load(run.folder, digest) if isinstance(digest, str) else None
        turns = [_tokens_of_turn(turn, tokenizer) for turn in record.get("turns") or () if isinstance(turn, Mapping)]
        extra = {key: value for key, value in record.items() if key.startswith("kl_")}
        return {"tokenizer": digest if tokenizer is not None else None, **extra, "turns": turns}

    def export(self, request: Request) -> Response:
        """Answer /api/r/{run}/export with a file to keep: what the filter leaves, as csv, html or json."""
        # Few visits ask for one, and what writes them is not small.
        from selfplay.export import export_rows

        run, asked, query = self._run(request), request.query_params.get("to", ""), _query(request)
        to = next((name for name in DOWNLOADS if name == asked), None)
        if to is None:
            raise RequestError(f"to={asked[:20]} is none of {', '.join(DOWNLOADS)}; `export` writes more formats")
        place = Path(tempfile.mkdtemp(prefix="selfplay-"))
        drop = functools.partial(shutil.rmtree, place, ignore_errors=True)
        try:
            file = export_rows(run.folder, to, query, place / f"export.{to}")
        except BaseException:
            drop()
            raise
        return FileResponse(
            file, media_type=DOWNLOADS[to], filename=f"{run.name}.{to}", background=BackgroundTask(drop)
        )

    # ----- versions -----

    def versions(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/versions: those that played held-out scenarios."""
        return {"versions": [plain(version) for version in versions_of(self._whole_run(_name_of(request)).index)]}

    def compare(self, request: Request) -> dict[str, Any]:
        """Answer /api/compare: two versions on the scenarios that both played."""
        sides = [self._side(request, name) for name in ("a", "b")]
        part = request.query_params.get("part", "")
        return paired_to_json(compare_versions(*sides, part=part))

    # ----- what people add -----

    def pair(self, request: Request) -> dict[str, Any]:
        """Answer /api/r/{run}/pair: two conversations to choose from."""
        return self._labels.pair(self._run(request), self._person(request.query_params.get("person")))

    def label(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a POST to /api/r/{run}/label, a choice, with what was hidden."""
        return self._labels.answer(self._run(request), self._person(body.get("person")), body)

    def undo(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a POST to /api/r/{run}/undo with what was taken back."""
        return self._labels.undo(self._run(request), self._person(body.get("person")))

    def tag(self, request: Request, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a POST to /api/r/{run}/tags with the tags that the conversation has now."""
        run = self._run(request)
        id = body.get("conversation")
        record = run.index.record(id) if isinstance(id, str) else None
        if record is None:
            raise _no_conversation(run, id)
        return {"tags": add_tag(run.folder, record, body, person=self._person(body.get("person")))}

    def _run(self, request: Request) -> OpenRun:
        """Return a run with what is new in it, as far as that is soon known: who asks must not wait for an index."""
        run = self._runs.open(_name_of(request))
        run.refresh()
        return run

    def _whole_run(self, name: str) -> OpenRun:
        """Return a run with all that is new in it: half of it would give other numbers."""
        run = self._runs.open(name)
        run.refresh(waits=True)
        return run

    def _listed(self, name: str, folder: Path) -> dict[str, Any]:
        try:
            return listed(name, folder, self._states.read(folder))
        except (*UNREADABLE, UserError) as error:
            logger.debug("run %s cannot be read just now: %s", name, error)
            return unreadable(name, folder)

    def _record(self, run: OpenRun, request: Request) -> tuple[str, dict[str, Any]]:
        id = _identity(request)
        record = run.index.record(id)
        if record is None:
            raise _no_conversation(run, id)
        return id, record

    def _side(self, request: Request, name: str) -> Side:
        """Return a version that RUN@VERSION names; without a version, the newest that played."""
        reference = request.query_params.get(name) or ""
        if not reference:
            raise RequestError(f"{name}= is missing: RUN@VERSION")
        # A run's own name may hold an @.
        found, version = (reference, None) if reference in self._runs.folders() else split_reference(reference)
        return Side(run=found, index=self._whole_run(found).index, version=version)

    def _person(self, value: object) -> str:
        """Return who adds something: by default the person at this machine."""
        if value in (None, ""):
            return self.person
        if not isinstance(value, str):
            raise RequestError("a person is a word, such as anon-3f")
        return check_person(value)

    def _replay(self, run: OpenRun, id: str) -> str:
        is_usual = run.folder.parent == RUNS.resolve()
        source = f"from={run.folder.name if is_usual else run.folder}/{id}"
        return f"{program_name()} play {shlex.quote(source)} turn={{turn}}"


def _reading(answer: Callable[[Request], Any]) -> Answer:
    """Return an endpoint that answers in a thread, and says in a sentence what is wrong."""

    @functools.wraps(answer)
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answered, answer, request)

    return endpoint


def _writing(answer: Callable[[Request, Mapping[str, Any]], Any]) -> Answer:
    """Return an endpoint that reads a JSON object, and then answers as `_reading` does."""

    @functools.wraps(answer)
    async def endpoint(request: Request) -> Response:
        try:
            body = await read_json(request)
        except RequestError as error:
            return json_response({"error": str(error)}, status=error.status)
        return await run_in_threadpool(_answered, lambda request: answer(request, body), request)

    return endpoint


def _answered(answer: Callable[[Request], Any], request: Request) -> Response:
    try:
        found = answer(request)
    except RequestError as error:
        return json_response({"error": str(error)}, status=error.status)
    except UNREADABLE as error:
        # It may be gone, or written anew just now: the next look says which.
        return json_response({"error": f"the run cannot be read just now: {reason(error)}"}, status=409)
    except UserError as error:
        # Browsers count a 400 as an error of the page; a filter that is still being typed is none.
        return json_response({"error": str(error)}, status=200 if "check" in request.query_params else 400)
    return found if isinstance(found, Response) else json_response(found)


def _missing(request: Request) -> Any:
    raise RequestError(f"there is nothing at {request.url.path}", status=404)


def _no_conversation(run: OpenRun, id: object) -> RequestError:
    if run.is_indexing:
        return RequestError(f"run {run.name} is being indexed: it has no conversation {id!r} so far", status=404)
    return RequestError(f"run {run.name} has no conversation {id!r}", status=404)


# ----- what a request says -----


def _name_of(request: Request) -> str:
    name: str = request.path_params["run"]
    return name


def _identity(request: Request) -> str:
    id: str = request.path_params["id"]
    if not IDENTITY.fullmatch(id):
        raise RequestError("that is no id of a conversation", status=404)
    return id


def _query(request: Request) -> str:
    query = request.query_params.get("q", "")
    if len(query) > MOST_QUERY:
        raise RequestError(f"the filter is longer than {MOST_QUERY} characters")
    return query


def _order(request: Request) -> bool | None:
    order = request.query_params.get("order") or None
    if order not in (None, "asc", "desc"):
        raise RequestError(f"order={order} is neither asc nor desc")
    return None if order is None else order == "desc"


def _number(request: Request, name: str, *, default: int) -> int:
    value = request.query_params.get(name) or ""
    if value and not (value.isascii() and NUMBER.fullmatch(value)):
        raise RequestError(f"{name}={value[:20]} is no number")
    return int(value) if value else default


# ----- what an answer says -----


def _cells(row: Row, parts: list[str], roles: list[str]) -> list[Any]:
    """Return a row's values in the order of COLUMNS."""
    ordered = {
        "values": [_finite(row.parts.get(name)) for name in parts],
        "per_role": [_finite(row.per_role.get(role)) for role in roles],
    }
    return [ordered[name] if name in ordered else plain(getattr(row, name)) for name in COLUMNS]


def _finite(value: object) -> float | int | None:
    number = plain(value)
    return number if isinstance(number, int | float) else None


def _labels(run: OpenRun, id: str) -> list[dict[str, Any]]:
    found = read_preferences(run.folder).preferences
    return [preference_to_json(preference) for preference in found if id in (preference.left, preference.right)]


def _tokens_of_turn(turn: Mapping[str, Any], tokenizer: stored_tokenizer.StoredTokenizer | None) -> dict[str, Any]:
    heard, said = (_ids(turn.get(key)) for key in ("heard", "said"))
    return {
        "turn": turn.get("turn"),
        "stream": turn.get("stream"),
        "heard": _with_texts(heard, tokenizer),
        "said": _with_texts(said, tokenizer),
        **{name: _aligned(turn.get(name), len(said)) for name in ARRAYS},
    }


def _ids(value: object) -> list[int]:
    return [id for id in value if type(id) is int] if isinstance(value, list) else []


def _with_texts(ids: list[int], tokenizer: stored_tokenizer.StoredTokenizer | None) -> list[tuple[int, str | None]]:
    texts: list[str] | list[None] = [None] * len(ids) if tokenizer is None else tokenizer.texts(ids)
    return list(zip(ids, texts, strict=True))


def _aligned(value: object, length: int) -> list[float | int | None] | None:
    """Return numbers of which there is one for each token; None: they are unknown, or not that many."""
    if not isinstance(value, list) or len(value) != length:
        return None
    return [_finite(number) for number in value]
