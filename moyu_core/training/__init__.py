"""Matched small language models, trained here from text that packages carry: `moyu train tiny`.

    sources -> corpus -> tokenizer -> tiny_models -> measures -> train -> card

`train.train` makes one model and its log along training; `card` recomputes every figure that a model card shows. `live` is the
small network that is trained from the page.
"""
