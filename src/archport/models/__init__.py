"""One file an architecture, named by its Hugging Face model_type: a Config, and build(cfg) -> Decoder."""
