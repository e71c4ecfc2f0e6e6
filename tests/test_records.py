"""Records say what a verdict rests on, and hold exactly as long as that is what is at hand."""

import copy
import hashlib
import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest
import torch
from typer.testing import CliRunner

import archport
from archport.cli import parity as _parity  # noqa: F401  # adds verify
from archport.cli import records as _records  # noqa: F401  # adds record
from archport.cli.app import app
from archport.errors import ArchportError, ConfigError
from archport.parity import records
from archport.parity.records.making import versions

from .commands import run
from .references import reference

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "record.json").read_text())
KEPT = sorted((ROOT / "docs" / "records").rglob("*.json"))  # in hub/ those of published checkpoints
QUICK = {"dtype": "float32", "against": "eager", "device": "cpu", "quick": True, "packed": False, "by_block": False}
PORT = (ROOT / "docs" / "examples" / "nemotron_port.py").read_text()


def recorded(source, *, settings=QUICK, **options):
    made = records.made(source, settings, records.verified(source, settings, **options), **options)
    jsonschema.validate(json.loads(made.to_json()), SCHEMA)
    return made


def reasons(record, source=None, **how):
    return records.standing(record, source, **how).reasons


@pytest.fixture(scope="session")
def of_bundled():
    return recorded(None)


@pytest.fixture
def folder(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


# --- a checkpoint ---


def said(*words, code=0):
    """What a command prints."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.exception if isinstance(done.exception, ArchportError) else done.stdout


def test_the_command_line_writes_a_record_and_checks_it(folder, tmp_path):
    path = tmp_path / "a.json"
    report = json.loads(said("verify", folder, "--record", path, "--json"))
    record = records.read(path)
    assert path.read_text() == record.to_json()
    assert record.files == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("config.json", "model.safetensors")
    }
    assert record.reports == [report]
    assert record.versions["torch"] == torch.__version__.partition("+")[0]
    assert run("record", "check", str(path)).stdout == f"{path}: holds\n"
    for words in (["--again"], ["--source", folder]):
        assert said("record", "check", path, *words) == f"{path}: holds\n"
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    expected = f"{path}: does NOT hold: config.json: found bytes that hash to "
    assert said("record", "check", path, code=1).startswith(expected)
    folder.rename(tmp_path / "moved")
    [standing] = json.loads(said("record", "check", path, "--json"))
    assert (standing["holds"], len(standing["notes"])) == (True, 1)
    assert said("record", "check", path).startswith(f"{path}: holds for the code; its files were not at hand\n")
    assert "no such folder" in str(said("record", "check", path, "--again", code=1))
    said("record", "check", path, path, "--source", "x", code=2)
    assert "expected a name ending in .json" in str(said("verify", "--record", "a.txt", code=1))


@pytest.mark.parametrize("how", ["--by-block", "--packed", "--quick"])
def test_each_way_to_verify_is_recorded_and_can_be_run_again(folder, tmp_path, how):
    path = tmp_path / "a.json"
    said("verify", folder, how, "--record", path)
    assert records.read(path).settings[how.removeprefix("--").replace("-", "_")] is True
    assert said("record", "check", path, "--again") == f"{path}: holds\n"


def test_a_checkpoint_is_found_wherever_it_is_now(folder, tmp_path):
    record = recorded(folder)
    moved = folder.rename(tmp_path / "moved")
    assert reasons(record, moved) == reasons(record, moved, again=True) == ()
    with pytest.raises(ArchportError, match="no such folder"):
        reasons(record, tmp_path / "nowhere")
    reference("gpt2", seed=1).save_pretrained(moved)
    [reason] = reasons(record, moved)
    assert reason.startswith("model.safetensors: found bytes")


def test_fields_at_their_default_are_named(of_bundled):
    """GPT-NeoX's own config says which these are: the bundled model has the default base, and not the default width."""
    assert {"rotary_base", "norm_eps", "parallel", "mlp_width"} <= set(of_bundled.not_varied)
    assert not {"width", "layers", "vocab_size"} & set(of_bundled.not_varied)
    other = recorded("gpt2", of_architecture=True)
    assert other.not_varied == other.reports[0]["never_varied"]


def test_a_record_of_the_hub_keeps_to_its_commit(hub, folders, tmp_path, monkeypatch):
    hub.add("ns/large", folders["large"])
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "a.json"
    run("verify", "ns/large", "--quick", "--record", str(path))
    commit = records.read(path).source["commit"]
    assert commit == hub.repos["ns/large"].refs["main"]
    hub.add("ns/large", folders["next"])
    assert commit != hub.repos["ns/large"].refs["main"]
    asked = len(hub.asked("*ns/large*"))
    assert run("record", "check", str(path)).stdout == f"{path}: holds\n"
    assert len(hub.asked("*ns/large*")) == asked
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    assert run("record", "check", str(path), "--again").stdout == f"{path}: holds\n"


# --- the code ---


@pytest.fixture
def port(tmp_path, monkeypatch):
    """An architecture of a person's own, from a text that may be edited."""

    def imported(text):
        monkeypatch.setattr("archport.registry._registered", {})
        path = tmp_path / f"port_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("a_port_of_my_own", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)

    return imported


EDITS = {
    "a comment": ("return llama.decoder(", "# as it is\n    return llama.decoder(", ()),
    "a docstring": ("as a list of parts", "in another order of words", ()),
    "a blank": ("    norm = partial(", "\n    norm  =  partial(", ()),
    "a row in another place": ("requires=COMMON_REQUIRES,\n", "\n    requires={**COMMON_REQUIRES},\n", ("model",)),
    "the mathematics": ("+ 1.0", "+ 1.01", ("model",)),
    "the table": ('"NemotronModel")', '"Nemotron")', ("table", "model")),
    "the sizes": ('"head_width": 20', '"head_width": 12', ("sizes", "model")),
}
WORDS = {"table": "key table", "model": "code of the model", "sizes": "sizes of the tiny models"}


@pytest.fixture(scope="session")
def of_port():
    """The record of the port in the docs, made once."""
    known: dict = {}

    def made():
        if not known:
            known["record"] = recorded("nemotron", of_architecture=True)
        return known["record"]

    return made


@pytest.mark.parametrize("edit", EDITS)
def test_a_record_holds_until_the_code_is_another(port, of_port, edit):
    port(PORT)
    record = of_port()
    assert reasons(record) == ()
    old, new, changed = EDITS[edit]
    assert PORT.count(old) == 1
    port(PORT.replace(old, new))
    assert set(reasons(record)) == {f"the {WORDS[one]} of nemotron changed since" for one in changed}


def test_a_bug_in_the_code_is_noticed_when_it_runs_again(port):
    single = PORT.replace("variants=VARIANTS", "variants={}")
    port(single)
    record = recorded("nemotron", of_architecture=True)
    port(single.replace("+ 1.0", "+ 1.01"))
    [of_code, verdict] = reasons(record, again=True)
    assert of_code == "the code of the model of nemotron changed since"
    assert "NOT the same model" in verdict


def test_the_code_of_archport_counts_where_the_model_uses_it(of_bundled, monkeypatch):
    import inspect

    read = inspect.getsource
    edited = []

    def changed(module):
        return read(module) + ("\nx = 1\n" if module.__name__ in edited else "")

    monkeypatch.setattr("archport.parity.records.fingerprints.inspect.getsource", changed)
    seen = []
    for name in (
        "layers.attention",
        "layers.rotary",
        "layers.context",
        "models.gpt_neox",
        "layers.experts",
        "models.gpt2",
    ):
        edited[:] = [f"archport.{name}"]
        seen += [name] if reasons(of_bundled) else []
    assert seen == ["layers.attention", "layers.rotary", "layers.context", "models.gpt_neox"]


def test_an_architecture_that_is_not_here(of_bundled):
    [reason] = reasons(replace(of_bundled, architecture="unheard_of"))
    assert "found 'unheard_of'" in reason


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_another_release_is_a_reason_until_it_is_verified_again(of_bundled, library):
    other = replace(of_bundled, versions={**versions(), library: "0.1"})
    said = f"{library} is {versions()[library]}, the record's 0.1"
    assert reasons(other) == (said,)
    again = records.standing(other, again=True)
    assert (again.reasons, again.notes) == ((), (said,))
    assert reasons(replace(of_bundled, versions={**versions(), "python": "3.1"})) == ()


def test_a_line_that_is_not_drawn_any_more(of_bundled):
    reports = copy.deepcopy(of_bundled.reports)
    reports[0]["checks"].append({**reports[0]["checks"][0], "name": "logits, by moonlight"})
    other = replace(of_bundled, reports=reports)
    assert reasons(other) == ()
    assert reasons(other, again=True) == ("the bundled demo: not compared any more: logits, by moonlight",)


def test_a_record_of_another_model_does_not_hold(of_bundled):
    reports = [{**of_bundled.reports[0], "ok": False, "verdict": "NOT the same model"}]
    assert reasons(replace(of_bundled, reports=reports)) == ("NOT the same model",)


# --- files that are no records ---


def places(value, at=()):
    """Where a JSON value can be spoilt."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def spoilt(values, at, new):
    if not at:
        return new
    values = copy.copy(values)
    values[at[0]] = spoilt(values[at[0]], at[1:], new)
    return values


def test_whatever_is_in_the_place_of_a_value_is_one_line_or_no_matter(of_bundled, tmp_path):
    values = json.loads(of_bundled.to_json())
    values["reports"][0]["checks"] = values["reports"][0]["checks"][:1]
    values["not_varied"] = values["not_varied"][:1]
    path = tmp_path / "a.json"
    refused = []
    for at in places(values):
        for new in (None, {"x": 3}):
            path.write_text(json.dumps(spoilt(values, at, new)))
            try:
                records.standing(records.read(path))
            except ArchportError as error:
                refused.append((at, str(error)))
    assert len(refused) > 50
    assert not [text for at, text in refused if "\n" in text or (str(path) not in text and at[:1] != ("source",))]


@pytest.mark.parametrize("name", [*records.Record.__dataclass_fields__])
def test_a_field_that_is_missing_or_misspelt_is_named(of_bundled, tmp_path, name):
    values = asdict(of_bundled)
    values[f"{name}_"] = values.pop(name)
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        records.read(tmp_path / "a.json")
    assert caught.value.faults == {name: "missing", f"{name}_": "no such field"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"record": 1, "record": 1}', None])
def test_a_file_that_is_no_json(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert str(tmp_path / "a.json") in str(said("record", "check", tmp_path / "a.json", code=1))


@pytest.fixture(scope="session")
def whole():
    """The record in the docs of an architecture, with several reports."""
    return json.loads((ROOT / "docs" / "records" / "gpt2.json").read_text())


def check_wrong(values):
    values["reports"][1]["checks"][0]["ok"] = False


def figure_too_large(values):
    values["reports"][0]["checks"][2]["port_error"] = 1.0


def figure_not_finite(values):
    values["reports"][0]["checks"][2]["port_error"] = None


def report_wrong(values):
    values["reports"][0]["ok"] = False


def no_checks(values):
    values["reports"][0]["checks"] = []


def few_checks(values):
    del values["reports"][0]["checks"][2:]


def another_verdict(values):
    values["reports"][0]["verdict"] = "the very same, trust me"


def problems_in_silence(values):
    values["reports"][0]["problems"] = ["embed is a Table, expected an Embed"]


def another_dtype(values):
    values["settings"]["dtype"] = "bfloat16"


def no_dtype(values):
    values["settings"]["dtype"] = "float33"


EDITED = {
    check_wrong: "logits, random ids: found ok False beside an error of ",
    figure_too_large: "logits, one token: found ok True beside an error of 1.0 within ",
    figure_not_finite: "logits, one token: found ok True beside an error of None within ",
    report_wrong: "gpt2: found 'gpt2: the same model as ",
    no_checks: "gpt2 compares nothing; ",
    few_checks: "its checks say 'gpt2: the same model as transformers (eager) in float32, by all 2 checks'",
    another_verdict: "gpt2: found 'the very same, trust me' with ok True, its checks say ",
    problems_in_silence: "its checks say 'gpt2: NOT the same model as ",
    another_dtype: "gpt2 is of float32, the settings of bfloat16",
    no_dtype: "dtype: found 'float33'",
}


@pytest.mark.parametrize("edit", EDITED, ids=lambda edit: edit.__name__)
def test_a_record_that_contradicts_itself_is_refused(whole, tmp_path, edit):
    values = copy.deepcopy(whole)
    edit(values)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    for more in ([], ["--again"]):
        error = str(said("record", "check", path, *more, code=1))
        assert str(path) in error
        assert EDITED[edit] in error
        assert "\n" not in error


def test_a_folder_that_is_elsewhere_is_not_looked_for_on_the_hub(of_bundled, tmp_path, monkeypatch):
    """A name without a slash before it could be a repository's."""
    monkeypatch.chdir(tmp_path)
    moved = replace(of_bundled, source={**of_bundled.source, "name": "a/folder"})
    standing = records.standing(moved)
    assert (standing.holds, standing.files_seen) == (True, False)
    assert "a/folder: no such folder or file from here: --source says where it is" in standing.notes[0]
    with pytest.raises(ArchportError, match="no such folder or file from here"):
        records.standing(moved, again=True)
    assert records.standing(moved, of_bundled_folder()).files_seen


def of_bundled_folder():
    return Path(archport.__file__).parent / "demo"


# --- those that are kept ---


def test_there_is_a_record_of_every_architecture():
    assert {"bundled", *archport.architectures()} <= {path.stem for path in KEPT}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_records_in_the_docs_hold(path):
    """If not: make records."""
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert records.standing(records.read(path)).reasons == ()
