"""Page: prompt sets of one's own: the library, import, and sets made by rule."""

import streamlit as st

from app.ui import parts, prompt_forms, prompt_library_page, prompt_sets, prompt_upload, state, visitors
from app.ui.choices import choose_part

HOW_TO_READ = """
A **prompt set** is a list of texts with a name. Its version is the hash of its prompts, the same hash that is part of every run
made from it, so the same texts have the same name on every machine. Nothing is ever changed in place: an edit is a new version.

- **text** is what the model reads, behind its sink token. Spaces at its ends count: they are tokens.
- **id** names the prompt in charts and links; without one it is made from the text.
- **domain** is any label: topic, language, kind of text. Studies whose unit is the topic take it as the topic.
- **condition** says how the same prompt is presented; `plain` = as it is.
"""
PARTS = {"library": "Library", "import": "Import", "make": "Make by rule"}

state.follow()
prompt_sets.open_set()
parts.header("Prompts", "Your own texts: bring them in, see what was understood, and use them in any study.", HOW_TO_READ)
said = st.session_state.pop("_said", None)
if said:
    getattr(st, said[0])(said[1])
limits = visitors.limits()
if limits is not None:
    st.caption(limits.in_words())
part = choose_part(PARTS)
parts.guarded({"library": prompt_library_page.draw, "import": prompt_upload.draw, "make": prompt_forms.draw}[part])
