"""Submitting requests to an engine and waiting for the results."""

from threading import Event

from lmsteer.serving.http.submission import Choice


def results_of(engine, requests, seconds=60, watch=None):
    """The finished choice of each request, or its error; ``watch`` has callbacks that get the chunks of some first."""
    choices, unfinished = [Choice() for _ in requests], [len(requests)]
    errors, done = [None] * len(requests), Event()

    def on_chunk(index, chunk):
        if watch and index in watch:
            watch[index](index, chunk)
        if chunk.error:
            errors[index] = chunk.error
        else:
            choices[index].add(chunk)
        if chunk.error or chunk.finish:
            unfinished[0] -= 1
            if not unfinished[0]:
                done.set()

    engine.submit(requests, on_chunk)
    assert done.wait(seconds)
    return [error or choice for error, choice in zip(errors, choices, strict=True)]
