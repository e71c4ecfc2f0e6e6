"""Run by benchmarks/generate.py in an interpreter that has litgpt: a line of JSON for each task, one back for each.

First `{"shape", "weights", "dtype"}`, then any number of `{"ids", "tokens"}`, answered with `{"ids", "seconds"}`.
"""

import json
import sys
import time

import torch
from litgpt.config import Config
from litgpt.generate.base import generate
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_gpt_neox
from safetensors.torch import load_file


def main() -> None:
    """Answer until there is nothing more to read."""
    task = json.loads(sys.stdin.readline())
    config = Config.from_name(task["shape"])
    state: dict[str, torch.Tensor] = {}
    copy_weights_gpt_neox(config, state, load_file(task["weights"]))
    model = GPT(config).to(getattr(torch, task["dtype"]))
    model.load_state_dict(state, strict=False)
    model.eval()
    for line in sys.stdin:
        task = json.loads(line)
        [prompt] = torch.tensor(task["ids"])
        size = len(prompt) + task["tokens"]
        start = time.perf_counter()
        with torch.inference_mode():
            model.set_kv_cache(batch_size=1, max_seq_length=size)
            model.max_seq_length = size
            tokens = generate(model, prompt, size, top_p=0.0)
        print(json.dumps({"ids": tokens.tolist(), "seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
