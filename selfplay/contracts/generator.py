"""The proof of a generator.  Legend for shapes: S tokens said in a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from selfplay.contracts.spot import Spot, call, check_attributes, kind_of, plugin_label
from selfplay.dialog import (
    Finish,
)
from selfplay.interfaces import Completion, Generator, Request

# Two batch compositions may differ by rounding; anything larger is another answer.
LOGPROB_TOLERANCE = 1e-3  # nats


def check_generator(generator: Generator, requests: Sequence[Request], *, max_steps: int = 10_000) -> None:
    """Prove that a generator keeps the promises of `Generator`, by answering the requests in two orders.

    The requests must be for different streams that the generator has not seen.  They are answered once in order
    and, after their streams were closed, once in reverse; all must be complete after max_steps steps.
    Raises ValueError if two requests share a stream, PluginError for the first promise that is broken.
    """
    check_attributes(generator, Generator, "generator")
    streams = [request.stream for request in requests]
    if len(set(streams)) < len(streams):
        raise ValueError("check_generator needs requests for different streams: at most one a stream may be under way")
    spot = Spot(plugin=plugin_label(generator, "generator"))
    forward = _complete(spot, generator, requests, max_steps)
    backward = _complete(spot, generator, requests[::-1], max_steps)
    for request in requests:
        _check_completion(spot.at(request.conversation), forward[request.stream])
        _same_completion(spot.at(request.conversation), forward[request.stream], backward[request.stream])
    call(spot, "close", generator.close, "a stream nobody opened")


def _complete(spot: Spot, generator: Generator, requests: Sequence[Request], max_steps: int) -> dict[str, Completion]:
    _check_idle(spot, generator, "before a request")
    waiting = {request.stream: request for request in requests}
    for request in requests:
        call(spot.at(request.conversation), "submit", generator.submit, request)
    completions: dict[str, Completion] = {}
    for _ in range(max_steps):
        if not waiting:
            break
        for completion in _step(spot, generator):
            _take(spot, completion, waiting, completions)
    for request in waiting.values():
        here = spot.at(request.conversation)
        raise here.broken("step", f"did not complete stream {request.stream!r} in {max_steps} steps", "it must")
    _check_idle(spot, generator, "after all requests were complete")
    for request in requests:
        call(spot.at(request.conversation), "close", generator.close, request.stream)
    return completions


def _step(spot: Spot, generator: Generator) -> list[Completion]:
    completions = call(spot, "step", generator.step)
    if not isinstance(completions, list) or not all(isinstance(item, Completion) for item in completions):
        raise spot.broken("step", f"returned {kind_of(completions)}", "it must return a list of Completions")
    return completions


def _take(spot: Spot, completion: Completion, waiting: dict[str, Request], completions: dict[str, Completion]) -> None:
    stream = completion.request.stream
    here = spot.at(completion.request.conversation)
    if stream in completions:
        raise here.broken("step", f"completed stream {stream!r} twice", "each request completes exactly once")
    if waiting.get(stream) is not completion.request:
        raise here.broken("step", f"completed stream {stream!r} with another request", "it must be the one submitted")
    completions[stream] = completion
    del waiting[stream]


def _check_idle(spot: Spot, generator: Generator, when: str) -> None:
    for completion in _step(spot, generator):
        here = spot.at(completion.request.conversation)
        raise here.broken("step", f"completed stream {completion.request.stream!r} {when}", "it must return []")


def _check_completion(spot: Spot, completion: Completion) -> None:
    said, logprobs = completion.said, completion.logprobs  # [S], [S]
    if not isinstance(said, np.ndarray) or not isinstance(logprobs, np.ndarray):
        raise spot.broken(
            "step", f"gave said as {kind_of(said)}, logprobs as {kind_of(logprobs)}", "both must be arrays"
        )
    if logprobs.shape != said.shape or said.ndim != 1:
        problem = f"gave logprobs of shape {logprobs.shape} for said of shape {said.shape}"
        raise spot.broken("step", problem, "there must be one a token")
    if not np.issubdtype(said.dtype, np.integer):
        raise spot.broken("step", f"gave tokens of type {said.dtype}", "they must be integers")
    for position in np.flatnonzero(~(np.isfinite(logprobs) & (logprobs <= 0))):
        problem = f"gave logprob {logprobs[position]} of token {position}"
        raise spot.broken("step", problem, "log-probabilities must be finite and at most 0")
    if completion.finish not in get_args(Finish):
        raise spot.broken(
            "step", f"gave finish={completion.finish!r}", f"it must be one of {', '.join(get_args(Finish))}"
        )
    if completion.error is None and completion.text is None and not len(said):
        raise spot.broken("step", "gave neither text nor tokens", "a completion without an error must say something")
    if completion.error is not None and len(completion.error.splitlines()) != 1:
        raise spot.broken("step", f"gave error={completion.error!r}", "an error must be one line")


def _same_completion(spot: Spot, first: Completion, second: Completion) -> None:
    right = "a turn must depend on its own stream only, and close must forget a stream"
    for name in ("text", "finish", "version", "error"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise spot.broken("step", f"gave {name}={other!r} in another order, {one!r} before", right)
    if not np.array_equal(first.said, second.said):
        raise spot.broken("step", "gave other tokens in another order", right)
    if not np.allclose(first.logprobs, second.logprobs, rtol=0, atol=LOGPROB_TOLERANCE):
        raise spot.broken("step", "gave other logprobs in another order", right)
