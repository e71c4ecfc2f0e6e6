"""What each command of the tests has imported when it is forked: see commands.py."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

from importlib import import_module
from pkgutil import iter_modules

import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401

import archport.cli

for one in iter_modules(archport.cli.__path__):
    import_module(f"archport.cli.{one.name}")
