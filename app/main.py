"""Entry point: `streamlit run app/main.py`, or `moyu serve`, which also starts the worker."""

import gc
import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # hosts that only run `streamlit run app/main.py` do not install the package
    sys.path.insert(0, str(ROOT))

from app.ui import cached, links, parts, state, visitors  # noqa: E402

st.set_page_config(page_title="MOYU Explorer", page_icon="\U0001f9e0", layout="wide")


@st.cache_resource(show_spinner=False)
def _freeze_imports() -> None:
    """Streamlit collects garbage after every rerun; what the imports made never becomes garbage, so it is left out."""
    gc.collect()
    gc.freeze()


_freeze_imports()
parts.styles()
pages = {
    "Explore": [
        st.Page("views/activation_map.py", title="Activation map", icon="\U0001f5fa\ufe0f", url_path="map", default=True),
    ],
    "Studies": [
        st.Page("views/origin.py", title="Origin", icon="\U0001f331", url_path="origin"),
        st.Page("views/history.py", title="History", icon="\U0001f4dc", url_path="history"),
        st.Page("views/inertia.py", title="Inertia", icon="\U0001f9f2", url_path="inertia"),
        st.Page("views/predictors.py", title="Predictors", icon="\U0001f3af", url_path="predictors"),
        st.Page("views/trinity.py", title="Trinity", icon="\U0001f53a", url_path="trinity"),
        st.Page("views/findings.py", title="Findings", icon="\u2696\ufe0f", url_path="findings"),
    ],
    "Data": [
        st.Page("views/capture.py", title="New capture", icon="\u270f\ufe0f", url_path="capture"),
        st.Page("views/prompts.py", title="Prompts", icon="\U0001f4dd", url_path="prompts"),
        st.Page("views/runs.py", title="Runs", icon="\U0001f5c2\ufe0f", url_path="runs"),
    ],
}
state.PAGES.update({page.url_path or "map": page for group in pages.values() for page in group})
if not visitors.signed_in():
    st.stop()
page = st.navigation(pages, position="sidebar")
links.begin(page.url_path)
parts.guarded(lambda: state.draw_sidebar(cached.home()))
visitors.draw_sign_out()
parts.guarded(page.run)
parts.finish()
