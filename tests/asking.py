"""Asking an engine for rows, and waiting for what it writes."""

from threading import Event

from lmsteer.serving.http.service import Choice


def answers(engine, orders, seconds=60):
    """What an engine writes for some orders, or the error of each."""
    choices, left = [Choice() for _ in orders], [len(orders)]
    errors, done = [None] * len(orders), Event()

    def tell(place, piece):
        if piece.error:
            errors[place] = piece.error
        else:
            choices[place].add(piece)
        if piece.error or piece.finish:
            left[0] -= 1
            if not left[0]:
                done.set()

    engine.submit(orders, tell)
    assert done.wait(seconds)
    return [error or choice for error, choice in zip(errors, choices, strict=True)]
