"""The Streamlit app: pages hold widgets, one query call and one figure call. No torch, no transformers in here."""
