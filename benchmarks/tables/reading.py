"""Tables of how well steers read texts, of the steers that ship, and of the scorers."""

from __future__ import annotations

from typing import Any

from benchmarks.tables.markdown import ASSETS, percent, read, results, short, table

SHIPPED = ("sentiment", "toxicity", "politeness", "emotion", "clickbait")


def shipped_steers() -> str:
    """The steers that ship, from their cards: those of labels, then those of wishes."""
    rows = []
    for name in SHIPPED:
        card = _card(name)
        test = card["held_out"]["test"]
        low, high = card["safe_range"]
        accuracy = f"{percent(test['sign_accuracy'])} of {test['texts']:,}"
        rows.append([f"`{name}`", card["label"], card["data"]["corpus"], accuracy, f"{low:+g} to {high:+g}"])
    for card in map(_card, sorted(folder.name for folder in (ASSETS / "steers").iterdir())):
        if measure := card["held_out"].get("measure"):
            low, high = card["safe_range"]
            moved = card["held_out"]["chat"]
            effect = f"`{measure}` moves by {moved['negative']:+.1f}, {moved['positive']:+.1f} deviations in chats"
            rows.append([f"`{card['name']}`", card["label"], "its descriptions", effect, f"{low:+g} to {high:+g}"])
    return table(["steer", "+1 means", "fitted on", "test labels recovered", "safe range"], rows)


def held_out() -> str:
    """How well each fit reads the texts that it held out, from the cards of the steers that ship."""
    rows = []
    for name in SHIPPED:
        card = _card(name)
        own = card["held_out"]
        rows.append(
            [
                f"{name} ({card['data']['corpus'].split(' (')[0].split(',')[0]})",
                f"{card['data']['texts']:,}",
                f"{own['texts']:,}",
                percent(own["sign_accuracy"], 1),
                short(own["auc"]),
                f"{own['log_likelihood_gain']:+.3f}",
            ]
        )
    header = ["dimension", "texts", "held out", "sign accuracy", "AUC", "log-likelihood gain, nats per token"]
    return table(header, rows)


def test_texts() -> str:
    """How well each steer reads its test set, beside a logistic regression."""
    rows = [
        [
            name,
            f"{one['texts']:,}",
            percent(one["sign_accuracy"], 1),
            short(one["auc"]),
            percent(one["regression_sign_accuracy"], 1),
            short(one["regression_auc"]),
        ]
        for name, one in results("dimensions").items()
    ]
    header = ["dimension", "test texts", "sign accuracy", "AUC", "regression: sign accuracy", "regression: AUC"]
    return table(header, rows)


def evidence() -> str:
    """How well evidence points at the words that matter."""
    one = results("evidence")
    return table(
        ["measure", "result"],
        [
            [
                f"the planted word lies in the strongest span, with the right sign ({one['planted']} sentences)",
                percent(one["in the first span"]),
            ],
            ["it lies in one of three spans", percent(one["in one of three"])],
            [
                f"a word's evidence has the sign of its label ({one['rationales']:,} words)",
                percent(one["sign_accuracy"]),
            ],
            ["AUC of word evidence", short(one["auc"])],
        ],
    )


def scorers() -> str:
    """The accuracy of each scorer on labelled test texts."""
    kinds = {
        "sentiment": "two logistic regressions on SST-2 phrases: one on words, one on the states of a sentence encoder",
        "sentiment-vader": "word lists and rules; undecided on one text in five",
        "toxicity": "alt-profanity-check (`pip install 'lmsteer[scorers]'`); a score of 1 means clean",
    }
    names = {
        "sst2_test": "SST-2 test",
        "customer_reviews": "customer reviews",
        "paradetox_test": "ParaDetox test",
        "toxicity_wikipedia_test": "Wikipedia comments",
    }
    rows = []
    for name, sets in read(ASSETS / "scorers" / "metrics.json").items():
        accuracy = ", ".join(f"{percent(one['accuracy'], 1)} ({names[one['data']]})" for one in sets)
        rows.append([f"`{name}`", kinds[name], accuracy, ", ".join(short(one["auc"]) for one in sets)])
    return table(["scorer", "what it is", "accuracy of its decisions", "AUC"], rows)


def _card(name: str) -> Any:
    return read(ASSETS / "steers" / name / "steer.json")["card"]
