"""Which page shows the runs of a study: every link, button and list of keys is made from this one table."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where runs of a study are seen.

    Attributes:
        page: its address.
        key: of the link that chooses among its runs there; "" = no link does.
        part: of the page; "" = whatever part comes first.
    """

    page: str
    key: str = ""
    part: str = ""


PLACES = {
    "capture": Place("map", "run"),
    "vocabulary": Place("map"),
    "inertia": Place("inertia", "inertia_run"),
    "history": Place("history", "history_run"),
    "predictors": Place("predictors", "prun"),
    "trial": Place("predictors", "trial_run", "trial"),
    "trinity": Place("trinity", "trinity_run"),
    "speed": Place("trinity", "speed_run", "speed"),
    "families": Place("trinity", part="where"),
    "origin": Place("origin", "origin_run", "model"),
    "training": Place("origin", part="training"),
    "live": Place("origin", part="live"),
}
"""By study."""
RUN_KEYS = (*(place.key for place in PLACES.values() if place.key), "other_run", "runs_run")
"""Keys of links that name a run; a test looks for others in the pages."""
