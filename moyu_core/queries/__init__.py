"""Reading the tables of the studies, one module a study. No torch, no Streamlit: pages and notebooks call these."""
