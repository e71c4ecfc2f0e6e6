"""Write docs/proposals.json and docs/proposals.md: what `archport propose` makes of every decoder of transformers.

Run from the repository root: ``python tools/propose_all.py [MODEL_TYPE ...]``, hours for all; `make proposals` does.
Each type is proposed in a process of its own, and what comes out is kept as build/proposals/TYPE.json, so that the same
command goes on where it was stopped: a type is run where it has no result of this release of transformers, where no
bugs were planted and --kills asks for that, where it is named, or, with --again, in any case. --write runs none.
"""

import argparse
import json
import os
import re
import resource
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from archport.errors import ArchportError, SourceError
from archport.files.write import whole_file
from archport.proposing import model_types, propose
from archport.proposing.apart import apart
from archport.proposing.proposal import subject_of

FOLDER = Path("build/proposals")
KEPT = Path("docs/proposals.json")
PAGE = Path("docs/proposals.md")
LIMITS = {"seconds": 900.0, "gigabytes": 8.0}
STATUSES = {
    "proved": "written in parts of archport, and all that was tried holds",
    "not proved": "written, and something does not hold",
    "hole": "something in it is explained by no part",
    "no tiny config": "transformers makes no model of it at tiny sizes that runs",
    "stopped": "it ran out of time or memory, or its process ended",
}
SHOWN = 3  # lines never run
LONG = 300  # letters of a reason
HEADINGS = ("type", "status", "lines", "parts, or why not", "never varied", "lines never run")


def main() -> None:
    """Run what has no result yet, and write both documents from all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="MODEL_TYPE", help="default: every type that has no result")
    parser.add_argument("--jobs", type=int, default=1, help="proposals at a time (default: %(default)s)")
    for name, limit in LIMITS.items():
        parser.add_argument(f"--{name}", type=float, default=limit, help="for each (default: %(default)g)")
    parser.add_argument("--again", action="store_true", help="run those that have a result, too")
    parser.add_argument("--kills", action="store_true", help="plant every known bug in each, which takes minutes more")
    parser.add_argument("--write", action="store_true", help="only write the documents")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    options = parser.parse_args()
    known, release = sorted(model_types()), version("transformers")
    named = [one.replace("-", "_") for one in options.types]
    if unknown := sorted({*named} - {*known}):
        parser.error(f"{unknown[0]}: transformers {release} has no causal decoder of this model_type")
    if options.jobs < 1 or min(options.seconds, options.gigabytes) <= 0:
        parser.error("--jobs, --seconds and --gigabytes: expected more than 0")
    options.results.mkdir(parents=True, exist_ok=True)
    if not options.write:
        there = {} if options.again else kept(options.results, release)
        left = [name for name in known if name not in there or (options.kills and not there[name]["kills"])]
        run_all(named or left, options, release)
    results = {name: one for name, one in kept(options.results, release).items() if name in known}
    if not results:
        parser.error(f"{options.results}: found no results of transformers {release}, expected some to write of")
    content = document(results, len(known), release)
    whole_file(KEPT, (json.dumps(content, indent=1) + "\n").encode())
    whole_file(PAGE, page(content).encode())
    print(f"written: {KEPT}, {PAGE}: {headline(content)}")


def kept(folder: Path, release: str) -> dict[str, dict[str, Any]]:
    """The results of this release of transformers in a folder, by type."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: one for name, one in found.items() if one["transformers"] == release}


def run_all(names: Sequence[str], options: argparse.Namespace, release: str) -> None:
    """Propose each, so many at a time, and keep each result as soon as it is there."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # of the processes to come: a result may not hang on what the Hub has today
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(result_of, name, options, release): name for name in names}
        try:
            for number, done in enumerate(as_completed(running), 1):
                name, result = running[done], done.result()
                whole_file(options.results / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
                print(f"{number} of {len(names)}: {name}: {row(name, result)['status']}", flush=True)
        except BaseException:  # as by Ctrl-C, which ends the processes, too: that is no result
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def result_of(name: str, options: argparse.Namespace, release: str) -> dict[str, Any]:
    """What comes of one type, and with which limits."""
    limits = {limit: getattr(options, limit) for limit in LIMITS}
    given = {"model_type": name, "kills": options.kills}
    try:
        found = json.loads(apart(proposed, given, **limits, told=lambda _: None))
    except SourceError as error:
        found = {"status": "stopped", "reason": str(error)}
    return {"transformers": release, "kills": options.kills, **limits, **found}


def proposed(model_type: str, kills: bool, told: Callable[[str], None]) -> str:
    """What comes of one type, as JSON, in a process of its own."""
    try:
        subject_of(model_type)
    except ArchportError as error:
        return json.dumps({"status": "no tiny config", "reason": str(error)})
    values = propose(model_type, kills=kills, told=told).values()
    unit = 1 if sys.platform == "darwin" else 2**10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    return json.dumps({"values": values, "peak": round(most, 2)})


def document(results: Mapping[str, Mapping[str, Any]], registered: int, release: str) -> dict[str, Any]:
    """What docs/proposals.json holds: a row a type, and apart from them what differs from run to run."""
    words = ["python tools/propose_all.py"]
    for limit, default in LIMITS.items():
        most = max(one[limit] for one in results.values())
        words += [] if most == default else [f"--{limit} {most:g}"]
    words += ["--kills"] if all(one["kills"] for one in results.values()) else []
    return {
        "command": " ".join(words),
        "transformers": release,
        "registered": registered,
        "types": [row(name, one) for name, one in sorted(results.items())],
        "measured": {
            name: {"seconds": one["values"]["seconds"], "gigabytes": one["peak"]}
            for name, one in sorted(results.items())
            if "values" in one
        },
    }


def row(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a type, of which nothing differs from run to run."""
    if "values" not in result:
        return {
            "model_type": name,
            "status": result["status"],
            "reason": steady([result["reason"].removeprefix(f"{name}: ")]),
        }
    values = result["values"]
    fields = values["fields"]
    return {
        "model_type": name,
        "status": "proved" if values["proved"] else "hole" if values["holes"] else "not proved",
        "reason": steady(values["holes"] or values["faults"]),
        "parts": values["parts"],
        "lines": [*values["lines"].values()],
        "fields": fields and {"used": fields["used"], "required": fields["required"]},
        "never_varied": values["never_varied"],
        "dead": values["dead"],
        "missed": {"count": len(values["missed"]), "first": values["missed"][:SHOWN]},
        "kills": values["kills"],
    }


def steady(reasons: Sequence[str]) -> str:
    """The first reason in a line, without addresses and folders, and how many more there are."""
    first = re.sub(r"0x[0-9a-f]{4,}", "0x...", " ".join(reasons[:1]))
    first = textwrap.shorten(re.sub(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+", "", first), LONG, placeholder=" ...")
    return f"{first}; and {len(reasons) - 1} more" if reasons[1:] else first


def headline(content: Mapping[str, Any]) -> str:
    """How many are proved, in words."""
    count = sum(one["status"] == "proved" for one in content["types"])
    return f"{count} of {content['registered']} registered causal decoder types are proposed and proved"


def page(content: Mapping[str, Any]) -> str:
    """The text of docs/proposals.md, from what docs/proposals.json holds."""
    rows = content["types"]
    blocks = [
        "# Every causal decoder of transformers, proposed",
        f"**{headline(content)}**, with transformers {content['transformers']}.",
        "Each type that transformers registers for causal language modelling, none left out, is given to "
        "`archport propose` by its name alone: [how it is read](proposing.md). "
        f"`{content['command']}` writes [proposals.json](proposals.json), and this page from it.",
        table(("status", "types", "what it means"), counts(rows)),
    ]
    missing = content["registered"] - len(rows)
    blocks += [f"{missing} types have no result yet."] if missing else []
    blocks += [" ".join(lines)] if (lines := [*sentences(rows, content["measured"])]) else []
    blocks.append(table(HEADINGS, map(cells, rows)))
    return "\n\n".join(blocks) + "\n"


def counts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each status: how many types have it."""
    count = Counter(one["status"] for one in rows)
    return [(status, str(count[status]), meaning) for status, meaning in STATUSES.items()]


def sentences(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Mapping[str, float]]) -> Iterable[str]:
    """What is said of those that are proved together."""
    proved = [one for one in rows if one["status"] == "proved"]
    if not proved:
        return
    taken = [measured[one["model_type"]] for one in proved]
    seconds, gigabytes = (median(one[what] for one in taken) for what in LIMITS)
    yield f"A proof takes {seconds:.0f} seconds and {gigabytes:.1f} GB of memory, the medians of those that are proved."
    if planted := [one["kills"][1] for one in proved if one["kills"]]:
        yield f"In {len(planted)} of them {sum(planted):,} bugs were planted, one at a time, and every one is named."


def cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of a type."""
    missed = one.get("missed", {"count": 0, "first": []})
    never_run = [str(missed["count"]), *map(code, missed["first"])] if missed["count"] else []
    return (
        code(one["model_type"]),
        one["status"],
        " + ".join(map(str, one.get("lines", []))) or "-",
        escaped(one["reason"]) or ", ".join(one["parts"]),
        ", ".join(map(code, one.get("never_varied", []))) or "-",
        "<br>".join(never_run) or "-",
    )


def code(text: str) -> str:
    """Text as it is written in a program; a pipe would end the cell."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|")


def escaped(text: str) -> str:
    """Text of which Markdown makes nothing else, in a cell."""
    return re.sub(r"[\\|<*`\[\]]|(?<!\w)_+|_+(?!\w)", lambda found: re.sub(r"(.)", r"\\\1", found[0]), text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
