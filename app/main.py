"""Entry point: `streamlit run app/main.py`, or `moyu serve`, which also starts the worker."""

import gc
import sys
from pathlib import Path

import streamlit as st

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # hosts that only run `streamlit run app/main.py` do not install the package
    sys.path.insert(0, str(ROOT))

from app.ui import cached, links, parts, state  # noqa: E402

st.set_page_config(page_title="MOYU Explorer", page_icon="\U0001f9e0", layout="wide")


@st.cache_resource(show_spinner=False)
def _freeze_imports() -> None:
    """Streamlit collects garbage after every rerun; what the imports made never becomes garbage, so it is left out."""
    gc.collect()
    gc.freeze()


_freeze_imports()
parts.styles()
pages = [
    st.Page("views/activation_map.py", title="Activation map", icon="\U0001f5fa\ufe0f", url_path="map", default=True),
    st.Page("views/capture.py", title="New capture", icon="\u270f\ufe0f", url_path="capture"),
    st.Page("views/runs.py", title="Runs", icon="\U0001f5c2\ufe0f", url_path="runs"),
]
state.PAGES.update({page.url_path or "map": page for page in pages})
page = st.navigation(pages, position="sidebar")
links.begin(page.url_path)
parts.guarded(lambda: state.draw_sidebar(cached.home()))
parts.guarded(page.run)
parts.finish()
