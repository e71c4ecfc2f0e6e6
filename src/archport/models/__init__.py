"""One file an architecture, named by its Hugging Face model_type: a Config, and build(cfg) -> Decoder.

Beside them: SIZES of a tiny model to test with, VARIANTS of it, PUBLISHED models by Hub id, FAULTS of its own.
"""
