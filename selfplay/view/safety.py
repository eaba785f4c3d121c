"""Who may talk to the server: nobody but a browser tab that shows its own page, and whoever has the token.

A page of a stranger, open in the same browser, can send requests to any address, also to this machine's own.  It is
kept out three ways: the Host header must be ours (its name may resolve to us: DNS rebinding), the Origin header must be
ours, and what changes something needs a header that other origins may not set.  Another machine needs the token.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfplay.errors import UserError

__all__ = ["Guard", "Policy", "RequestError", "is_loopback", "read_json"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")
LEAST_TOKEN = 8  # characters
MAX_BODY_BYTES = 64 * 1024
WRITE_HEADER, WRITE_VALUE = "x-selfplay", "1"
API = "/api/"
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# What is on this machine only changes under the reader; what it says is nobody else's.
API_CACHE, PAGE_CACHE = "no-store", "no-cache"


class RequestError(UserError):
    """A request is refused; the sentence goes to the page, with the status of the answer."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Where the server listens, and what it asks of a request.

    Raises UserError for an address that other machines reach without a token, or a token that can be guessed.
    """

    host: str = "127.0.0.1"
    port: int
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise UserError(f"host={self.host} lets other machines read your runs; give a password too: token=WORDS")
        if self.token is not None and not re.fullmatch(rf"[\w.~-]{{{LEAST_TOKEN},200}}", self.token, re.ASCII):
            raise UserError(f"token= must be {LEAST_TOKEN} to 200 letters, digits and . _ ~ -")

    @property
    def url(self) -> str:
        """What to type into a browser on this machine; it holds the token."""
        return self.url_of("/")

    def url_of(self, path: str) -> str:
        """Return the same for one of the pages."""
        host = "127.0.0.1" if self.host in WILDCARDS else self.host
        query = "" if self.token is None else "?" + urlencode({"token": self.token})
        return f"http://{_bracketed(host)}:{self.port}{path}{query}"

    @property
    def cookie(self) -> str:
        """The name of the cookie that holds the token; cookies do not know ports."""
        return f"selfplay_{self.port}"

    def is_own(self, authority: str) -> bool:
        """Whether HOST:PORT, as a Host or an Origin header names it, is this server."""
        host, port = _split_authority(authority)
        return port == self.port and self._is_own_host(host)

    def has_token(self, given: str | None) -> bool:
        """Whether this is the token; True if none is asked for."""
        if self.token is None:
            return True
        return hmac.compare_digest((given or "").encode("utf-8", "replace"), self.token.encode())

    def _is_own_host(self, host: str) -> bool:
        if host in LOOPBACK or host == self.host.lower():
            return True
        # Listening everywhere, this machine has more names than can be known.  A number is never rebound.
        return self.host in WILDCARDS and (_is_address(host) or host == socket.gethostname().lower())


class Guard:
    """The middleware that refuses what the policy refuses, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here: the connection is closed

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), path=scope["path"])
            await send(message)

        answer = self._answer(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the answer to a request that goes no further; None: it may pass."""
        headers = Headers(scope=scope)
        try:
            self._check_place(headers)
            self._check_write(scope, headers)
            return self._check_token(scope, headers)
        except RequestError as error:
            return error_response(error, path=scope["path"])

    def _check_place(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._policy.is_own(hosts[0]):
            raise RequestError(
                f"this server is not called that; open http://localhost:{self._policy.port}/", status=403
            )
        origins = headers.getlist("origin")
        if any(not self._is_own_origin(origin) for origin in origins):
            raise RequestError("another site sent this request; only the server's own page may", status=403)
        is_from_elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_from_elsewhere and headers.get("sec-fetch-mode") != "navigate":
            raise RequestError("another site sent this request; only the server's own page may", status=403)

    def _is_own_origin(self, origin: str) -> bool:
        scheme, _, authority = origin.partition("://")
        return scheme == "http" and self._policy.is_own(authority)

    def _check_write(self, scope: Scope, headers: Headers) -> None:
        if scope["method"] in ("GET", "HEAD"):
            return
        if scope["method"] != "POST":
            raise RequestError(f"{scope['method']} is not known here", status=405)
        if headers.get(WRITE_HEADER) != WRITE_VALUE:
            raise RequestError("a request that writes needs the header X-Selfplay: 1", status=403)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestError("a request that writes must be application/json", status=415)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        policy = self._policy
        if policy.token is None:
            return None
        if policy.has_token(cookie_parser(headers.get("cookie", "")).get(policy.cookie)):
            return None
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not policy.has_token(next((value for name, value in pairs if name == "token"), None)):
            raise RequestError("this page needs its token: open the address that `view` printed", status=403)
        if scope["path"].startswith(API):
            return None
        return self._entrance(scope["path"], [(name, value) for name, value in pairs if name != "token"])

    def _entrance(self, path: str, pairs: list[tuple[str, str]]) -> Response:
        """Return a page that sets the cookie and goes on to the address without the token.

        A redirect would not do: a browser that came from another site sends no strict cookie along with it.
        """
        # Two slashes at the start would name another server.
        address = quote("/" + path.lstrip("/\\")) + ("?" + urlencode(pairs) if pairs else "")
        body = f'<!doctype html><meta charset="utf-8"><title>selfplay</title><a href="{html.escape(address)}">go on</a>'
        response = Response(body, media_type="text/html", headers={"Refresh": f"0; url={address}"})
        assert self._policy.token is not None
        response.set_cookie(self._policy.cookie, self._policy.token, httponly=True, samesite="strict")
        return response


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request brings: raises RequestError if it is none, or too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"the request is larger than {MAX_BODY_BYTES // 1024} kB", status=413)
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError("the request is not valid JSON") from error
    if not isinstance(found, dict):
        raise RequestError("the request is not a JSON object")
    return found


def error_response(error: RequestError, *, path: str) -> Response:
    """Return a refusal as the page reads it, or as text where a person typed the address."""
    if path.startswith(API):
        return JSONResponse({"error": str(error)}, status_code=error.status)
    return PlainTextResponse(f"{error}\n", status_code=error.status)


def _add_headers(headers: MutableHeaders, *, path: str) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    is_kept = path.startswith("/static/")
    headers["Cache-Control"] = PAGE_CACHE if is_kept else API_CACHE


def _split_authority(authority: str) -> tuple[str, int | None]:
    """Return host and port of HOST[:PORT], in lower case and without brackets; a port of None is none that can be."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:@/\s]+))(?::([0-9]{1,5}))?", authority)
    if found is None:
        return "", None
    return (found[1] or found[2]).lower(), int(found[3]) if found[3] else 80


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
