"""What each process does that torchrun starts: `ranks.py FOLDER` does the jobs in a folder and writes results there."""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.nn import functional as F

import archport
from archport import parallel


def logits(folders: list[str]) -> dict:
    """Logits of checkpoints, whole and token by token through the cache, and the texts that go on."""
    found = {}
    for folder in folders:
        model = parallel.load(folder)
        ids = torch.load(Path(folder) / "ids.pt")
        with torch.inference_mode():
            whole = model(ids)
            cache = archport.KVCache(model, batch=len(ids), capacity=ids.shape[-1])
            cached = [model.next_logits(ids[:, :-2], cache=cache)]
            cached += [model.next_logits(ids[:, [at]], cache=cache) for at in (-2, -1)]
        found[folder] = {
            "logits": whole,
            "cached": torch.stack(cached, 1),
            "greedy": archport.generate(model, ids[:, :5], max_new_tokens=4, greedy=True),
            "drawn": archport.generate(model, ids[:, :5], max_new_tokens=4),
            "own": {name: tuple(one.shape) for name, one in model.named_parameters()},
            "score": archport.score(model, ids[0].tolist()).loss,
            "kv_heads": cache.layers[0].keys.shape[1],
            "outside": refusal(model, torch.tensor([[113]])),
        }
    return found


def refusal(act, *args) -> str:
    """What is said where something is refused."""
    try:
        act(*args)
    except (archport.ArchportError, ValueError) as error:
        return str(error)
    return "nothing"


def steps(job: dict) -> dict:
    """Bare steps of an optimiser on a model of which each rank holds a part, and its state saved by all of them."""
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def trained(folder: str, by: str, dtype: torch.dtype) -> tuple[archport.Decoder, list[float], torch.Tensor]:
        model = archport.load(folder, copy=True, dtype=dtype)
        for parameter in model.parameters():
            parameter.data += rank  # the first's weights count
        model = parallel.shard(model)
        losses = train(model, 20, rows=slice(rank, None, count), by=by)
        with torch.no_grad():
            return model, losses, model(batch(model, 0))

    found = {}
    for folder, by in job["folders"]:
        _, exact_losses, exact_logits = trained(folder, by, torch.float64)
        model, losses, logits = trained(folder, by, torch.float32)
        state, moments = get_state_dict(model, OPTIMISERS.pop(model))
        dcp.save({"model": state, "optimiser": moments}, checkpoint_id=f"{job['saved']}/{Path(folder).name}")
        own = sum(parameter.to_local().numel() for parameter in model.parameters())
        found[folder] = {
            "losses": losses,
            "logits": logits,
            "exact_losses": exact_losses,
            "exact_logits": exact_logits,
            "own": own,
            "tied": model.head.weight is model.embed.tokens.weight,
            "export": refusal(archport.export, model, job["saved"]),
            "again": refusal(parallel.shard, model),
        }
    return found


OPTIMISERS: dict = {}


def batch(model, step: int) -> torch.Tensor:
    """The token ids of a step, for all ranks together."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, model.config.vocab_size, (4, 17), generator=generator)


def train(model, count: int, *, rows: slice = slice(None), by: str = "loss") -> list[float]:
    """Train on some rows of each batch; by archport's loss, or by what torch makes of all logits."""
    optimiser = OPTIMISERS[model] = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(count):
        ids = batch(model, step)[rows]
        if by == "loss":
            with patch.object(archport.Decoder, "logits", None):  # which it never makes all of
                loss = archport.loss(model, ids)
        else:
            loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def peak(job: dict) -> dict:
    """By how much the most memory grows while a rank loads checkpoints, largest last, and computes with each."""
    grown = {}
    for folder in job["folders"]:
        first = held()
        model = parallel.load(folder, dtype=job["dtype"])
        with torch.inference_mode():
            model(torch.tensor([[1, 2, 3]]))
        own = sum(parameter.nbytes for parameter in model.parameters())
        grown[folder] = {"grown": held() - first, "own": own}
        del model
    return grown


def held() -> int:
    """The most memory that this process has held."""
    with Path("/proc/self/status").open() as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


JOBS = {"logits": logits, "steps": steps, "peak": peak}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(torch.distributed.get_rank())  # so that what is drawn alike is no accident
    jobs = json.loads((out / "jobs.json").read_text())
    said = {name: JOBS[name](value) for name, value in jobs.items()}
    rank = torch.distributed.get_rank()
    torch.save(said, out / f"{rank}.part")
    (out / f"{rank}.part").rename(out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
