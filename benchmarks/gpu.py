"""What tools/gpu_check.sh measures, a function for each part: parity, decode, compiled, load, train.

Each yields its rows one by one: what a row is about, and a function that measures the rest. Seconds are medians of
rounds in which all take turns, and nothing is timed before the results agree; "times as fast" holds archport against
the next column. Weights are random, at published sizes. "A token" is what more tokens of a text take, divided among
them: the prompt and the capture of the graph, for which every text pays once, are in "to token 8".
"""

import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import load as loads
import torch
import train as training
from turns import COMPILED, DYNAMIC, STATIC, go, hf, ids, reference_of, timed

import archport
from archport.errors import in_a_line
from archport.parity.judging import compare
from archport.parity.tiny_models import loud_comparison
from archport.registry import architecture

FIRST = 8  # tokens of the prompt, and tokens decoded before those that are timed
FASTER = 6  # times as many tokens are timed of archport, whose steps are short
TOLERANCE = 5e-2  # of the largest, between two ways to round bfloat16
SPEED_GOAL, BANDWIDTH_GOAL = 4.0, 0.6  # in bfloat16, at batch 1, of GOAL_SHAPES
GOAL_SHAPES = ("pythia-410m", "pythia-1.4b")

Row = dict[str, Any]
Step = tuple[Row, Callable[[], Row]]


@dataclass(frozen=True)
class Way:
    """Where and how much."""

    device: str = "cuda"
    rounds: int = 3
    tokens: int = 32  # to decode beyond the first
    tiny: bool = False
    architectures: Sequence[str] = ()


def parity(way: Way) -> Iterator[Step]:
    """Tiny loud models against transformers, by all lines of `archport verify`; what is left of the budgets."""
    for name in [architecture(name).name for name in way.architectures or archport.architectures()]:
        yield {"architecture": name}, partial(same_model, name, way.device)


def same_model(name: str, device: str) -> Row:
    """Whether an architecture at its own sizes is the reference in every dtype, and how near to its budget it comes."""
    row, wrong = {}, []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        kind = str(dtype).removeprefix("torch.")
        try:
            comparison = loud_comparison(name, dict(architecture(name).sizes), dtype=dtype, device=device)
            report = compare(comparison.port_of(comparison.reference), comparison, name)
        except Exception as error:  # one dtype does not keep the next from being looked at
            traceback.print_exc()
            row[kind] = "raises"
            wrong.append(f"{kind}: {reason(error)}")
            continue
        worst = max((check.port_error / (check.budget or 1.0) for check in report.checks), default=0.0)
        row[kind] = f"{'ok' if report.ok else 'FAILS'}, at most {worst:.0%} of the budget"
        if not report.ok:
            print(report)
            wrong.append(report.verdict)
    return row | ({"failed": "; ".join(wrong)} if wrong else {})


def decode(way: Way) -> Iterator[Step]:
    """Decoding in bfloat16, archport by its captured graph, and a prompt of 512 tokens to its first token."""
    for shape in ("neox-tiny",) if way.tiny else GOAL_SHAPES:
        models = pair(shape, torch.bfloat16, way.device)
        yield {"what": f"{shape}, batch 1, a token"}, partial(decoding, *models, way, 1)
        yield {"what": f"{shape}, batch 1, to token {FIRST}"}, partial(starting, *models, way)
        yield {"what": f"{shape}, prompt of 512 to first token"}, partial(prompting, *models, way)
        for batch in (8, 64) if shape == GOAL_SHAPES[0] else ():
            yield {"what": f"{shape}, batch {batch}, a token"}, partial(decoding, *models, way, batch)


def compiled(way: Way) -> Iterator[Step]:
    """The same decoding against transformers' forward pass compiled, its cache static."""
    shape = "neox-tiny" if way.tiny else GOAL_SHAPES[0]
    if way.device == "cpu":
        yield {"what": f"{shape}, batch 1, a token"}, lambda: {"transformers, compiled, ms": "not on a CPU"}
        return
    models = pair(shape, torch.bfloat16, way.device)
    for batch in (1, 8, 64):
        theirs = {"transformers, compiled": COMPILED}
        yield {"what": f"{shape}, batch {batch}, a token"}, partial(decoding, *models, way, batch, theirs)


def load(way: Way) -> Iterator[Step]:
    """A checkpoint to a ready model on the device, each in a fresh process, and the host's memory at the peak."""
    size = "gptj-tiny" if way.tiny else GOAL_SHAPES[0]
    dtype = loads.SIZES[size][2]
    with tempfile.TemporaryDirectory() as folder:
        loads.prepare(size, folder, [dtype])
        yield {"what": f"{size}, {dtype}"}, partial(loading, folder, way)


def train(way: Way) -> Iterator[Step]:
    """A step of training: forward, loss, backward."""
    shape, (rows, length) = ("neox-tiny", (2, 16)) if way.tiny else (GOAL_SHAPES[0], (8, 512))
    for dtype in (torch.float32, torch.bfloat16):
        what = f"{shape}, {rows} x {length}, {str(dtype).removeprefix('torch.')}"
        yield {"what": what}, partial(stepping, shape, dtype, ids(rows, length, way.device), way)


def pair(shape: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """archport's model and transformers', of the same weights."""
    reference = reference_of(shape, dtype, device)
    return archport.from_state_dict(reference.config, reference.state_dict()).to(device), reference


def decoding(port: Any, reference: Any, way: Way, batch: int, theirs: Mapping[str, Row] | None = None) -> Row:
    """Milliseconds a token, and at batch 1 the share of the copy bandwidth at which archport reads its weights."""
    torch._dynamo.reset()  # or a second batch size would be compiled for any size
    runs = texts(port, reference, ids(batch, FIRST, way.device), theirs)
    tokens = {name: way.tokens * (FASTER if name == "archport" else 1) for name in runs}
    for name, run in runs.items():  # the longest first: no cache has to grow, and nothing to be compiled again
        require_likely(name, reference, run(FIRST + tokens[name]))
    clocks = {name: partial(seconds_a_token, run, tokens[name]) for name, run in runs.items()}
    row = in_turns(clocks, way.rounds)
    if batch > 1 or theirs:
        return row
    copied = copy_bandwidth(way.device)
    read = sum(p.nbytes for p in port.parameters()) - port.embed.tokens.weight.nbytes * (not port.tied)
    share = read / (1e-3 * row["archport, ms"]) / copied
    speed, bandwidth = f"{SPEED_GOAL:g} x", f"{BANDWIDTH_GOAL:.0%}"
    goals = [met(speed, row["times as fast"] >= SPEED_GOAL), met(f"{bandwidth} of bandwidth", share >= BANDWIDTH_GOAL)]
    row["of the copy bandwidth"] = f"{share:.0%} of {copied / 1e9:.0f} GB/s"
    return row if way.tiny else row | {"goals": ", ".join(goals)}


def starting(port: Any, reference: Any, way: Way) -> Row:
    """Milliseconds to the first tokens of a text, with the capture of a graph that is compiled already."""
    runs = texts(port, reference, ids(1, FIRST, way.device))
    return in_turns({name: partial(timed, partial(run, FIRST)) for name, run in runs.items()}, way.rounds)


def prompting(port: Any, reference: Any, way: Way) -> Row:
    """Milliseconds from a long prompt to its first token."""
    prompt = ids(1, 512, way.device)
    runs = {"archport": go(port, prompt, 1), "transformers": hf(reference, prompt, 1)}
    for name, run in runs.items():
        require_likely(name, reference, run(), len(prompt[0]))
    return in_turns({name: partial(timed, run) for name, run in runs.items()}, way.rounds)


def loading(folder: str, way: Way) -> Row:
    """Seconds and memory of both libraries, their code imported before."""
    seen: dict[str, list[dict[str, float]]] = {library: [] for library in loads.LIBRARIES}
    for _ in range(way.rounds):
        for library, figures in seen.items():
            how = {"library": library, "folder": folder, "dtype": "auto", "code_first": True, "device": way.device}
            figures.append(loads.in_process("load", **how, began=time.monotonic()))
    row: Row = {}
    for what, name in (("ready", "s"), ("logits", "s to first logits"), ("resident", "host memory / weights")):
        row |= {f"{library}, {name}": statistics.median(one[what] for one in seen[library]) for library in seen}
    return row | {"times as fast": row["transformers, s"] / row["archport, s"]}


def stepping(shape: str, dtype: torch.dtype, batch: torch.Tensor, way: Way) -> Row:
    """Milliseconds of a step of training."""
    models = pair(shape, dtype, way.device)
    losses = archport.loss, training.of_labels
    steps = [training.step(model, batch, loss) for model, loss in zip(models, losses, strict=True)]
    tolerance = training.TOLERANCE if dtype == torch.float32 else TOLERANCE
    training.require_agreement(*models, *steps, tolerance=tolerance)
    return in_turns({name: partial(timed, step) for name, step in zip(loads.LIBRARIES, steps, strict=True)}, way.rounds)


def texts(
    port: Any, reference: Any, prompt: torch.Tensor, theirs: Mapping[str, Row] | None = None
) -> dict[str, Callable[[int], Any]]:
    """What continues a prompt by so many tokens: archport by its captured graph, and ways of transformers."""
    ways = theirs or {"transformers": DYNAMIC, "transformers, static cache": STATIC}
    runs: dict[str, Callable[[int], Any]] = {"archport": lambda tokens: go(port, prompt, tokens, compiled=True)()}
    for name, how in ways.items():
        runs[name] = lambda tokens, how=how: hf(reference, prompt, tokens, **how)()
    return runs


def in_turns(clocks: Mapping[str, Callable[[], float]], rounds: int) -> Row:
    """Milliseconds by each clock, once for nothing and then medians of a few rounds; archport comes first."""
    seconds = [[clock() for clock in clocks.values()] for _ in range(rounds + 1)][1:]
    middle = [1e3 * statistics.median(of_one) for of_one in zip(*seconds, strict=True)]
    row: Row = {f"{name}, ms": value for name, value in zip(clocks, middle, strict=True)}
    return row | {"times as fast": middle[1] / middle[0]}


def seconds_a_token(run: Callable[[int], Any], tokens: int) -> float:
    """What so many tokens take beyond the first, each."""
    return (timed(partial(run, FIRST + tokens)) - timed(partial(run, FIRST))) / tokens


@torch.inference_mode()
def require_likely(name: str, reference: Any, rows: Any, start: int = FIRST) -> None:
    """Stop unless each token after a prompt is the reference's choice, or by rounding as good as that."""
    text = torch.as_tensor(rows, device=reference.device)
    logits = reference(text).logits[:, start - 1 : -1].float()
    chosen = logits.gather(-1, text[:, start:, None])
    off = ((logits.amax(-1, keepdim=True) - chosen).max() / logits.abs().max()).item()
    if not off <= TOLERANCE:
        sys.exit(f"{name} chose a token whose logit is {off:.1%} of the largest below the best")


def copy_bandwidth(device: str) -> float:
    """Bytes that a device reads and writes a second, copying a block."""
    block = torch.ones(1 << (22 if device == "cpu" else 28), device=device)
    return 2 * block.nbytes / min(timed(block.clone) for _ in range(5))


def met(goal: str, reached: bool) -> str:
    """A goal and whether it is met."""
    return f"{goal}: {'met' if reached else 'missed'}"


def reason(error: BaseException) -> str:
    """Why something failed, in a line: of a long text the first and the last."""
    kind = "" if isinstance(error, SystemExit) else f"{type(error).__name__}: "
    lines = [line for line in str(error).splitlines() if line.strip()]
    words = " ... ".join(lines if len(lines) < 2 else (lines[0], lines[-1]))
    return in_a_line(ValueError(kind + words), 300)
