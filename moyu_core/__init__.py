"""MOYU Explorer's core: which FFN neurons fire, could they have been predicted, is skipping the rest worth it?

The flow is one way: prompts -> model -> capture -> reduce -> store -> query -> figures.
Nothing here imports Streamlit; `query`, `figures`, `store`, `schema` and `jobs` never import torch.
"""

__version__ = "0.1.0"
