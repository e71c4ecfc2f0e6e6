"""Commands about texts: generate, score."""

import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Context, Option

from .. import loading, port
from ..errors import AsideWarning, SourceError
from ..fast.choosing import chosen, measured, together
from ..fast.cpu import cpu
from ..fast.linears import swap
from ..generation import text
from ..generation.configured import in_words, read_settings
from ..generation.decoding import generate as rows_of
from ..generation.decoding import stream
from ..generation.options import Generation
from ..generation.scoring import score as score_of
from ..generation.tokenizers import chat_ids
from ..layers import Decoder
from ..load_plan import LoadPlan
from ..parallel.inference import loaded
from ..parallel.ranks import ranks_of
from .app import (
    Adapter,
    Device,
    Dtype,
    Json,
    Links,
    MaybeSource,
    Offline,
    Revision,
    Tokenizer,
    Variant,
    app,
    err,
    print_json,
    reading,
)
from .processes import require_ranks


class Bits(str, Enum):
    """What weights may be rounded to."""

    INT8 = "int8"
    INT4 = "int4"


Quantize = Annotated[Bits | None, Option(help="rounded weights, faster on a CPU")]
LETTERS = 4  # a token, about: how long a prompt is has to be guessed before it is read


@app.command()
def generate(
    context: Context,
    source: MaybeSource = None,
    prompt: Annotated[str | None, Option(help="the text to continue")] = None,
    prompt_file: Annotated[Path | None, Option(help="a file with it, in UTF-8")] = None,
    samples: Annotated[int, Option(help="how many times")] = 1,
    max_new_tokens: Annotated[int, Option(help="at most so many tokens each")] = 30,
    temperature: Annotated[float, Option(help="divides the logits; 0 is greedy")] = 1.0,
    top_k: Annotated[int, Option(help="keep the likeliest; 0 keeps all")] = 50,
    top_p: Annotated[float, Option(help="keep the likeliest that together reach this")] = 1.0,
    min_p: Annotated[float, Option(help="keep what reaches this part of the likeliest")] = 0.0,
    repetition_penalty: Annotated[float, Option(help="above 1: repeat less")] = 1.0,
    greedy: Annotated[bool, Option("--greedy", help="always the likeliest token")] = False,
    seed: Annotated[int | None, Option(help="the same seed gives the same text")] = None,
    stop: Annotated[list[str] | None, Option(help="end before this text; may be repeated")] = None,
    quantize: Quantize = None,
    compiled: Annotated[
        bool, Option("--compile", help="compile each step first: worth it for long texts on a GPU")
    ] = False,
    explain_speed: Annotated[
        bool, Option("--explain-speed", help="say on stderr which way to multiply was chosen here, and why")
    ] = False,
    tensor_parallel: Annotated[
        int | None, Option(min=1, help="share the model out among so many processes, which torchrun starts")
    ] = None,
    slide: Annotated[bool, Option("--slide", help="past the context, drop the oldest tokens")] = False,
    no_stream: Annotated[bool, Option("--no-stream", help="print the whole text at the end")] = False,
    chat: Annotated[bool, Option("--chat", help="the prompt is a message: print the answer")] = False,
    as_configured: Annotated[
        bool, Option("--as-configured", help="with the settings of generation_config.json, but for options given here")
    ] = False,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    adapter: Adapter = None,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt. One sample appears as it is generated; several come together, divided by a line."""
    if (prompt is None) == (prompt_file is None):
        raise BadParameter("give --prompt or --prompt-file")
    if not all(stop or ()):
        raise BadParameter("--stop: found an empty text, which is everywhere")
    if compiled and quantize is not None:
        raise BadParameter("--compile and --quantize do not go together")
    if tensor_parallel is not None:
        if compiled or quantize is not None or explain_speed:
            raise BadParameter("--tensor-parallel goes with none of --compile, --quantize and --explain-speed")
        require_ranks(tensor_parallel)
    options: dict[str, Any] = {"greedy": greedy, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"min_p": min_p, "repetition_penalty": repetition_penalty, "max_new_tokens": max_new_tokens}
    options |= {"samples": samples, "seed": seed, "slide": slide, "compiled": compiled}
    Generation(**options)  # which looks at them before anything is chosen or read
    given = prompt if prompt is not None else _read_text(str(prompt_file))
    how = reading(revision, offline, variant, follow_links) | {"adapter": adapter}
    plan = port.plan(source, dtype=dtype, headers_only=False, **how)
    if tensor_parallel is not None:
        linears, why = None, ""
    elif quantize is not None:
        linears, why = quantize.value, f"{quantize.value}, as --quantize {quantize.value} asks"
        if explain_speed:
            how_fast = measured(linears, plan.dtype, together(samples), device=loading.to_device(device))
            why = f"{why}\n{how_fast}"
    elif compiled:
        linears, why = None, "nn.Linear as it is, compiled"
    else:
        linears, why = _linears(plan, device, given, max_new_tokens, samples)
    if explain_speed:
        err.print(f"{cpu()}\n{why}", markup=False, soft_wrap=True)
    if tensor_parallel is not None:
        model = loaded(plan, *ranks_of(None, device))
    else:
        model = loading.execute(plan, device, linears=linears)
    reader = text.tokenizer(model if tokenizer is None else tokenizer)
    if chat:
        ids, shown = text.within(reader, chat_ids(reader, given), model.config.vocab_size), ""
    else:
        ids, shown = text.encoded(reader, given, model.config.vocab_size) or text.start_ids(model), given
    stops = stop or []
    options |= {"vocabulary": text.size(reader)} | _configured(context, model, len(ids), followed=as_configured)
    try:
        if options["samples"] == 1 and not as_json and not no_stream:
            tokens = stream(model, ids, **options)  # which looks at the options before anything is printed
            print(shown, end="", flush=True)
            for piece in text.pieces(tokens, reader, stops, ids):
                print(piece, end="", flush=True)
            print()
            return
        rows = rows_of(model, ids, until=text.stopping(reader, stops, ids), **options)
    except KeyboardInterrupt:
        print()
        sys.exit(130)
    texts = [shown + "".join(text.pieces(row[len(ids) :], reader, stops, ids)) for row in rows]
    if as_json:
        print_json({"prompt": given, "texts": texts, "ids": rows})
    else:
        print("\n---\n".join(texts))


def _configured(context: Context, model: Decoder, length: int, *, followed: bool) -> dict[str, Any]:
    """The options that generation_config.json has and the command line has not; what is not followed is said."""
    settings = read_settings(model, length)
    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    lines = []
    if left := {name: value for name, value in settings.followed.items() if not followed and name != "do_sample"}:
        lines.append(f"not followed unless --as-configured: {in_words(left)}")
    if settings.others:
        lines.append(f"not followed: {in_words(settings.others)}")
    if lines:
        warnings.warn(AsideWarning(f"{settings.where}: {'; '.join(lines)}"), stacklevel=1)
    return settings.chosen(given) if followed else {}


@app.command()
def score(
    words: Annotated[
        list[str], Argument(help="a text in UTF-8, or - for stdin; before it, a SOURCE", metavar="[SOURCE] FILE|-")
    ],
    stride: Annotated[int | None, Option(help="how far the window moves; half of the context")] = None,
    quantize: Quantize = None,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    offline: Offline = False,
    variant: Variant = None,
    follow_links: Links = False,
    adapter: Adapter = None,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Loss, perplexity and bits per byte of a text; with --json of every token.

    With --quantize both before and after the weights are rounded, so that one sees what it costs.
    """
    if len(words) > 2:
        raise BadParameter(f"found {len(words)} words, expected [SOURCE] FILE")
    given = _read_text(words[-1])
    source = words[0] if len(words) == 2 else None
    how = reading(revision, offline, variant, follow_links) | {"adapter": adapter}
    plan = port.plan(source, dtype=dtype, headers_only=False, **how)
    linears = None if quantize is not None else _linears(plan, device, given, 0)[0]
    model = loading.execute(plan, device, linears=linears)
    reader = text.tokenizer(model if tokenizer is None else tokenizer)
    ids = text.encoded(reader, given, model.config.vocab_size)
    if len(ids) < 2:
        raise SourceError(f"{words[-1]}: found a text of {len(ids)} tokens, expected at least 2")
    result = score_of(model, ids, stride=stride)
    size, unrounded = len(given.encode()), {}
    if quantize is not None:
        unrounded = {"unrounded_perplexity": result.perplexity}
        result = score_of(swap(model, quantize.value), ids, stride=stride)
    facts = {"tokens": len(ids), "bytes": size, "loss": result.loss, "perplexity": result.perplexity}
    facts |= {**unrounded, "bits_per_byte": result.bits_per_byte(size)}
    if as_json:
        rows = [
            {"id": token, "text": reader.decode([token]), "loss": loss}
            for token, loss in zip(ids, [None, *result.losses], strict=True)
        ]
        print_json(facts | {"per_token": rows})
    else:
        for name, value in facts.items():
            print(f"{name.replace('_', ' '):<21} {value if isinstance(value, int) else format(value, '.4f')}")


def _linears(plan: LoadPlan, device: str, given: str, tokens: int, rows: int = 1) -> tuple[str | None, str]:
    """The kind of linear maps that is fastest for a text and so many tokens after it in each row, and why."""
    size = sum(step.bytes for step in plan.mapped)
    return chosen(plan.dtype, loading.to_device(device), size, len(given.encode()) // LETTERS, tokens, rows)


def _read_text(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")  # without the mark that some editors write at the beginning
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: found a byte at {error.start} that is not UTF-8, expected a text") from None
