"""From a file or a pasted text to a set: what was understood, what was left out and why, then a name."""

from __future__ import annotations

import streamlit as st

from app.ui import exports, prompt_sets
from app.ui.links import boolean, kept, linked
from moyu_core import prompt_library
from moyu_core.errors import MoyuError
from moyu_core.prompt_files import ENCODINGS, KINDS, MAX_COLUMNS, MAX_ROWS, MAX_UPLOAD_BYTES, SPLITS, Sheet, read_sheet
from moyu_core.prompt_import import FIELDS, Mapping, guess, pasted_file, understand

NONE = ""
WHAT = {"text": "the prompt", "id": "its name", "domain": "kind of text, or any label", "condition": "how it is presented"}


@st.cache_resource(show_spinner="Reading", max_entries=6)
def _sheet(digest: str, file: str, encoding: str, split: str, header: bool, _data: bytes) -> Sheet:
    del digest
    return read_sheet(_data, file, encoding=encoding, split=split, header=header)


def draw() -> None:
    """Upload or paste, map the columns, look, save."""
    st.caption(
        f"{', '.join(KINDS)}; up to {MAX_UPLOAD_BYTES // 2**20} MiB, {MAX_ROWS:,} rows and {MAX_COLUMNS} columns. What a file is, "
        "is told by its content. Nothing is kept before you save it."
    )
    left, right = st.columns([2, 1])
    with left:
        uploaded = st.file_uploader(
            "File", type=[*KINDS, "ndjson", "json"], key="_upload", max_upload_size=MAX_UPLOAD_BYTES // 2**20
        )
        pasted = kept(
            "_pasted",
            "",
            lambda: st.text_area(
                "or paste texts",
                height=120,
                key="_pasted",
                placeholder="One prompt a line, or parted by blank lines; or cells of a spreadsheet, or JSON lines.",
            ),
        )
    with right:
        encoding, split, header = _options()
    if uploaded is not None:
        data, file, name = uploaded.getvalue(), uploaded.name, uploaded.name.rsplit(".", 1)[0]
    elif (pasted or "").strip():
        data, file, name = (pasted or "").encode("utf-8", "replace"), pasted_file(pasted or "", split), "pasted"
        encoding = "utf-8"
        if file != "pasted":
            st.caption(f"Read as a table. Choose “{SPLITS['lines']}” where plain text is parted to take each line as a prompt.")
    else:
        return
    try:
        sheet = _sheet(prompt_sets.digest(data), file, encoding, split, header, data)
        _understood(sheet, name)
    except MoyuError as error:
        st.error(str(error), icon="\u26a0\ufe0f")


def _options() -> tuple[str, str, bool]:
    encoding = linked(
        "encoding",
        "utf-8",
        lambda: st.selectbox("Encoding", ENCODINGS, key="encoding", help="Of text without a byte order mark."),
        options=ENCODINGS,
    )
    split = linked(
        "split",
        "auto",
        lambda: st.selectbox("Plain text is parted by", list(SPLITS), key="split", format_func=SPLITS.__getitem__),
        options=list(SPLITS),
    )
    header = linked(
        "header",
        True,
        lambda: st.toggle("The first row names the columns", key="header", help="csv, tsv and xlsx"),
        decode=boolean,
    )
    return encoding, split, header


def _understood(sheet: Sheet, name: str) -> None:
    mapping = _mapping(sheet)
    cut = linked(
        "shorten",
        False,
        lambda: st.toggle("Shorten texts that are too long", key="shorten", help="Otherwise they are left out, and named."),
        decode=boolean,
    )
    understood = understand(sheet, mapping, cut=cut)
    st.markdown(f"**{sheet.kind}**: {understood.in_words()}.")
    for note in understood.notes:
        st.caption(f"Note: {note}.")
    prompt_sets.show_problems("Left out", understood.left_out)
    prompt_sets.show_problems("Changed", understood.changed)
    if not understood.prompts:
        st.warning("No row has a usable text. Choose another column for the text.")
        return
    model = prompt_sets.choose_model("for_model", prompt_sets.models())
    tokens = None
    if model is not None and model.path is not None and len(understood.prompts) <= prompt_sets.MAX_SHOWN:
        tokens = prompt_library.token_counts(model.path, understood.prompts)
    frame = prompt_sets.table(understood.prompts, tokens)
    exports.offer("What was understood", table=frame)
    prompt_sets.show_table(frame, "What was understood", 300)
    notes = (*understood.notes, *([understood.in_words()] if understood.left_out or understood.changed else []))
    prompt_sets.save_button(understood.prompts, name[:80].strip() or "prompts", f"imported from {sheet.kind}", "upload", notes)


def _mapping(sheet: Sheet) -> Mapping:
    """One select box a field; the names of the columns suggest the first choice."""
    if sheet.columns == ("text",):
        return Mapping("text")
    suggested = guess(sheet)
    chosen = {}
    for column, name in zip(st.columns(len(FIELDS)), FIELDS, strict=True):
        options = list(sheet.columns) if name == "text" else [NONE, *sheet.columns]
        with column:
            chosen[name] = st.selectbox(
                f"{name}: {WHAT[name]}",
                options,
                index=options.index(getattr(suggested, name)),
                format_func=lambda option: option or "none",
                key=f"_map-{name}-{prompt_sets.digest(repr(sheet.columns).encode())[:8]}",
            )
    return Mapping(**chosen)
