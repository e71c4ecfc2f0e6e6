"""What each command of the tests has imported when it is forked: see commands.py."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401

from archport.cli import (  # noqa: F401
    checkpoints,
    machine,
    modules,
    parity,
    plans,
    records,
    texts,
    train,
    views,
)
