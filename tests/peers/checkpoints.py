"""The loud checkpoints that every peer is given, and the logits that transformers makes of them: as files.

Run in the main environment: ``python -m tests.peers.checkpoints FOLDER``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..references import SIZES, reference

LOGITS = "logits.safetensors"
NO_WINDOW = {"use_sliding_window": False, "layer_types": None, "sliding_window": None}
# By name: the architecture, and what differs from its row of SIZES: what some peers have no option for.
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gptj": ("gptj", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "llama": ("llama", {"head_dim": 12}),
    "llama, base 10000, eps 1e-12": ("llama", {"head_dim": 12, "rope_theta": 10000.0, "rms_norm_eps": 1e-12}),
    "mistral": ("mistral", {"head_dim": 12}),
    "mixtral": ("mixtral", {"head_dim": 12, "sliding_window": None}),
    "qwen2": ("qwen2", {"head_dim": 12, **NO_WINDOW}),
    "qwen3": ("qwen3", NO_WINDOW),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma3_text": ("gemma3_text", {}),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {"partial_rotary_factor": 1.0}),
    "olmo2": ("olmo2", {"head_dim": 12}),
    "falcon": ("falcon", {"rope_theta": 10000.0, "ffn_hidden_size": 240}),
    "mpt": ("mpt", {"attn_config": {}}),
}


def main(folder: Path) -> None:
    """Write each: config.json, model.safetensors, and ids with logits in float32 and float64.

    The config has its fields in the older spellings beside the newer: peers read those, and so must a transformers that
    takes the rotary fraction of GPT-NeoX from nowhere else, as 5.3 does.
    """
    for name, (architecture, changes) in CHECKPOINTS.items():
        model = reference(architecture, **changes)
        model.save_pretrained(folder / name)
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | SIZES[architecture] | changes, indent=2))
        ids = torch.randint(model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            single = model(ids, use_cache=False).logits
            exact = model.double()(ids, use_cache=False).logits
        tensors = {"ids": ids, "single": single.contiguous(), "exact": exact.contiguous()}
        save_file(tensors, folder / name / LOGITS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
