"""The study's claims: endpoints and smallest effects were fixed before the first run."""

from __future__ import annotations

from typing import Any

import numpy as np

from moyu_core.claims import Claim, judge
from moyu_core.intervals import Interval, jackknife, t_interval
from moyu_core.schema import DEFAULT_DENSITY
from moyu_core.spec import SetRule
from moyu_core.studies.inertia.overlap import Measured
from moyu_core.studies.inertia.spread import over_layers

INERTIA = 0.02
"""Smallest I that matters: repeated words alone, in a model without attention, make a flocking of 0.015."""
IRRELEVANCE = 0.8
"""Smallest I(random words) / I(sentence) that may be called "whatever the meaning": four fifths stay without any meaning."""
PREFIX_GAIN = 0.05
"""Smallest KL(static) - KL(prefix) that matters, nats: 5 % of the next token's probability."""
SOURCE = "MOYU (2406.12569), semantic-irrelevant activation inertia"


def endpoint_density(rule: SetRule) -> float:
    """The density at which transplants decide: the run's own, or the usual one for rules without."""
    return rule.density or DEFAULT_DENSITY


def ratio(found: Measured) -> Interval:
    """I(random words) / I(sentence), each the mean over layers, over topics."""
    return jackknife(
        found.n_topics, lambda kept: float(np.mean(found.index("random_words", kept)) / np.mean(found.index("sentence", kept)))
    )


def prefix_gain(transplants: list[dict[str, Any]], rule: SetRule) -> Interval:
    """KL(static) - KL(prefix) where the text goes on, over topics: positive = the prefix's set serves better than a fixed one."""
    kl: dict[tuple[str, str], list[float]] = {}
    for row in transplants:
        if row["continuation"] == "true" and row["density"] == endpoint_density(rule):
            kl.setdefault((row["topic"], row["source"]), []).append(row["kl"])
    topics = list(dict.fromkeys(topic for topic, _ in kl))
    return t_interval([np.mean(kl[topic, "static"]) - np.mean(kl[topic, "prefix"]) for topic in topics])


def claims(found: Measured, transplants: list[dict[str, Any]], rule: SetRule, model: str) -> list[Claim]:
    """The claims, judged together."""
    units = f"{found.n_topics} topic{'' if found.n_topics == 1 else 's'}"
    made = [
        Claim(
            "inertia",
            "Within a sequence the same neurons keep firing, more than its words bring along.",
            SOURCE,
            "inertia index I of sentences, mean over layers",
            INERTIA,
            over_layers(found.n_topics, lambda kept: found.index("sentence", kept)),
            model,
            units,
        ),
        Claim(
            "whatever the meaning",
            "Random words keep at least four fifths of the inertia of sentences.",
            SOURCE,
            "I(random words) / I(sentence), means over layers",
            IRRELEVANCE,
            ratio(found),
            model,
            units,
        ),
    ]
    if transplants:
        made.append(
            Claim(
                "the prefix carries the set",
                "At a token, the neurons that its prefix used serve better than a fixed set.",
                SOURCE,
                f"KL(static) - KL(prefix) in nats at density {endpoint_density(rule):g}, the text going on",
                PREFIX_GAIN,
                prefix_gain(transplants, rule),
                model,
                units,
            )
        )
    return judge(made)
