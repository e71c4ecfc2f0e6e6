"""Every way to multiply by one weight that was tried, kept or not: seconds of a product, beside nn.Linear's.

All take turns in one process; figures are the best of the rounds, ratios nn.Linear's seconds in the same dtype over the
others'. A way whose numbers are further from the float64 product than its rounding explains ends the run.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from machine import where
from torch import Tensor, nn
from torch.nn import functional as F
from turns import timed, write

from archport.fast.direct import DirectLinear, WideLinear, by_onednn
from archport.fast.few_bits import GROUP, Int4InHalf, Int8InHalf, to_int4, to_int8
from archport.fast.half import HalfLinear
from archport.fast.packed import PackedLinear

WIDTH, OUT = 768, 16384  # 50 MB in float32
ROWS = (1, 4, 8, 64, 512)
EXACT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of the largest number
INT8, DYNAMIC, INT4 = 2e-2, 6e-2, 2e-1

Way = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure, print the table, and write it into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page, between its markers")
    options = parser.parse_args()
    torch.manual_seed(0)
    weight = torch.randn(OUT, WIDTH) / WIDTH**0.5
    head = ("weight", "way", "to prepare", *(f"{rows} row{'s' if rows > 1 else ''}" for rows in ROWS))
    lines = [head, ("---",) * len(head)]
    with torch.inference_mode():
        for dtype in EXACT:
            linear = nn.Linear(WIDTH, OUT, bias=False, device="meta", dtype=dtype)
            linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            lines += table(linear, options.rounds)
    rendered = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    kind = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} threads"
    text = f"`python {' '.join(sys.argv)}`: best of {options.rounds} rounds, {threads}; {where()}.\n\n{rendered}"
    print(text)
    if options.docs:
        write(options.docs, f"benchmarks/linears.py {kind}", text)


def table(linear: nn.Linear, rounds: int) -> list[tuple[str, ...]]:
    """A line for each way that this CPU has."""
    dtype = linear.weight.dtype
    name = str(dtype).removeprefix("torch.")
    inputs = [torch.randn(rows, WIDTH).to(dtype) for rows in ROWS]
    lines: dict[str, list[str]] = {}
    ready: dict[str, Way] = {}
    for words, (prepare, tolerance) in ways(linear).items():
        seconds = 0.0
        try:
            seconds = timed(lambda make=prepare, words=words: ready.update({words: make()}))
            require_agreement(words, ready[words], inputs[-1], linear.weight, tolerance)
        except RuntimeError as error:
            ready.pop(words, None)
            lines[words] = [f"not here: {str(error).splitlines()[0][:60]}", *("" for _ in ROWS)]
            continue
        lines[words] = [f"{1e3 * seconds:.0f} ms"]
    for x in inputs:
        best = dict.fromkeys(ready, float("inf"))
        for _ in range(rounds):
            for words, way in ready.items():
                best[words] = min(best[words], timed(lambda way=way, x=x: way(x)))
        for words, seconds in best.items():
            lines[words].append(f"{1e3 * seconds:.2f} ms, {best['nn.Linear'] / seconds:.2f} x")
    return [(name, words, *cells) for words, cells in lines.items()]


def require_agreement(words: str, way: Way, x: Tensor, weight: Tensor, tolerance: float) -> None:
    """Stop unless the product is right but for the rounding of the way."""
    exact = x.double() @ weight.double().T
    error = ((way(x).double() - exact).abs().max() / exact.abs().max()).item()
    if not error <= tolerance:
        sys.exit(f"{words}, {weight.dtype}: {error:.1e} of the largest from the product, expected {tolerance:.0e}")


def ways(linear: nn.Linear) -> dict[str, tuple[Callable[[], Way], float]]:
    """By its words: what makes a way ready, and how far off its products may be."""
    weight, exact = linear.weight, EXACT[linear.weight.dtype]
    half = weight.dtype != torch.float32
    made: dict[str, tuple[Callable[[], Way], float]] = {
        "nn.Linear": (lambda: linear, exact),
        "oneDNN, in its order for 8 rows (`PackedLinear`)": (lambda: PackedLinear(linear), exact),
        "the same, fewer than 4 rows as 4": (lambda: filled(ordered(weight, 8)), exact),
        "oneDNN, in its order for 1 row": (lambda: ordered(weight, 1), exact),
        "oneDNN, in its order for 128 rows": (lambda: ordered(weight, 128), exact),
        "oneDNN, as it lies (`DirectLinear`)": (lambda: DirectLinear(linear), exact),
        "as (in, out)": (lambda: transposed(weight), exact),
    }
    if half:
        made["float16 by FBGEMM, multiplied in float32 (`HalfLinear`)"] = (lambda: HalfLinear(linear), exact)
        made["many rows widened to float32 in pieces, by oneDNN (`WideLinear`)"] = (lambda: WideLinear(linear), exact)
    else:
        made["MKL's order"] = (lambda: by_mkl(weight), exact)
    made["8 bits, torch's own"] = (lambda: int8(weight), INT8)
    made["8 bits, rounded and held in float16 (`Int8InHalf`)"] = (lambda: Int8InHalf(linear), INT8)
    made["8 bits, what goes in too, by FBGEMM"] = (lambda: dynamic(weight), DYNAMIC)
    made["4 bits, torch's own"] = (lambda: int4(weight), INT4)
    made["4 bits, rounded and held in float16 (`Int4InHalf`)"] = (lambda: Int4InHalf(linear), INT4)
    return made


def ordered(weight: Tensor, rows: int) -> Way:
    """A weight in oneDNN's order for some rows."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: by_onednn(x, packed, None)


def filled(way: Way) -> Way:
    """Fewer than 4 rows as if they were 4."""
    return lambda x: way(F.pad(x, (0, 0, 0, max(0, 4 - len(x)))))[: len(x)]


def transposed(weight: Tensor) -> Way:
    """As transformers' GPT-2 has them."""
    lying = weight.T.contiguous()
    return lambda x: x @ lying


def by_mkl(weight: Tensor) -> Way:
    """In MKL's order for as many rows as come, which it has to know."""
    packed = {rows: torch.ops.mkl._mkl_reorder_linear_weight(weight, rows) for rows in ROWS}
    return lambda x: torch.ops.mkl._mkl_linear(x, packed[len(x)], weight, None, len(x))


def int8(weight: Tensor) -> Way:
    """8 bits in the weight; the scales are of the dtype."""
    steps, scale = to_int8(weight.float())
    scale = scale.to(weight.dtype)
    return lambda x: torch.ops.aten._weight_int8pack_mm(x, steps, scale)


def dynamic(weight: Tensor) -> Way:
    """8 bits in the weight, and 7 in what goes in."""
    steps, scale = to_int8(weight.float())
    zeros = torch.zeros(len(weight), dtype=torch.long)
    rounded = torch._make_per_channel_quantized_tensor(steps, scale.double(), zeros, 0)
    packed = torch.ops.quantized.linear_prepack(rounded, None)
    return lambda x: torch.ops.quantized.linear_dynamic(x.float(), packed, True).to(x.dtype)


def int4(weight: Tensor) -> Way:
    """4 bits in the weight; scales and zeros are of the dtype."""
    steps, scale, zero = to_int4(weight.float().reshape(len(weight), -1, GROUP))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.to(torch.int32).flatten(1), 2)
    scales = torch.cat((scale, zero), -1).transpose(0, 1).to(weight.dtype).contiguous()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)


if __name__ == "__main__":
    main()
