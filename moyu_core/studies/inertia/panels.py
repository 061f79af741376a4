"""What the page draws without a model: the sets of a few texts under every condition, and the texts as they were presented."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from moyu_core import schema
from moyu_core.run_writer import RunFolder
from moyu_core.schema import inertia as tables
from moyu_core.studies import shared
from moyu_core.studies.inertia.conditions import unit_tokens
from moyu_core.studies.inertia.overlap import Measured

SHOWN = {
    ("sentence", "parallel"),
    ("sentence", "sequence"),
    ("shuffled", "parallel"),
    ("shuffled", "sequence"),
    ("random_words", "parallel"),
    ("random_words", "sequence"),
    ("sentence", "bare"),
    ("random_words", "bare"),
}


def shown_texts(topics: np.ndarray, count: int) -> list[int]:
    """The first text of each of the first topics; where there are fewer topics, further texts."""
    firsts = [int(np.flatnonzero(topics == topic)[0]) for topic in range(int(topics.max()) + 1)]
    others = [text for text in range(len(topics)) if text not in firsts]
    return [*firsts, *others][:count]


def write(folder: RunFolder, found: Measured, count: int) -> None:
    """Write `panels`, one row group a (text, layer), and `texts`."""
    chosen = shown_texts(found.topics, count)
    groups = [_group(found, text, layer) for text in chosen for layer in range(len(found.layers))]
    folder.write("panels", pa.concat_tables(groups), row_group_size=groups[0].num_rows)
    rows = [
        {
            "prompt_id": text.prompt.id,
            "topic": text.topic,
            "content": content,
            "text": " ".join(w.text for w in text.words),
            "shown": number in chosen,
        }
        for content, texts in found.texts.items()
        for number, text in enumerate(texts)
    ]
    folder.write("texts", shared.table(tables.TEXT_COLUMNS, {c.name: [row[c.name] for row in rows] for c in tables.TEXT_COLUMNS}))


def _group(found: Measured, text: int, layer: int) -> pa.Table:
    """The rows of one text in one layer, condition after condition."""
    width = len(found.texts["sentence"][0].slots)
    conditions = [condition for condition in found.units if condition in SHOWN]
    units = next(iter(found.units.values()))
    columns = tables.panel_columns(units.n_neurons)
    words = {content: found.texts[content][text].words for content, _ in conditions}
    active = np.concatenate([found.units[condition].active[layer, text * width : (text + 1) * width] for condition in conditions])
    n_rows = len(active)
    return pa.table(
        [
            pa.array([found.texts["sentence"][text].prompt.id] * n_rows),
            pa.array(np.full(n_rows, found.layers[layer], np.int16)),
            pa.array([content for content, _ in conditions for _ in range(width)]),
            pa.array([history for _, history in conditions for _ in range(width)]),
            pa.array(np.tile(np.arange(width, dtype=np.int16), len(conditions))),
            pa.array([word.text for content, _ in conditions for word in words[content]]),
            pa.array(np.concatenate([unit_tokens(found.texts[c])[text] for c, _ in conditions]).astype(np.int32)),
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(active.shape[1]), n_rows, [None, pa.py_buffer(np.ascontiguousarray(active).tobytes())]
            ),
        ],
        schema=schema.arrow_schema(columns),
    )
