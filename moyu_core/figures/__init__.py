"""Figures: from numbers to something that can be drawn. Numbers in, picture out; no model, no tokenizer, no page."""
