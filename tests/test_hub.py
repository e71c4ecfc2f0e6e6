"""Repositories on a Hub: the real client against a server on this machine."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import archport
from archport.errors import ArchportError, CheckpointError, SourceError
from archport.files.choosing import choose_weights
from archport.files.companions import companions_of
from archport.files.hub import repository as archport_hub
from archport.loading import own_weight

from .hub_server import REPO, Fault, HubServer

SECRET = "hf_secret"
LOG_IN = "log in with `hf auth login`"
OFFLINE = "try later, or --offline if it is in the cache"
BOTH = pytest.mark.parametrize("ask", [archport.load, archport.plan])


def same(model, folder: Path) -> bool:
    expected = archport.load(folder).state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def failure(kind: type[ArchportError], ask, source: str = REPO, **options) -> str:
    with pytest.raises(kind) as caught:
        ask(source, **options)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith(source)
    assert len(message.splitlines()) == 1
    assert len(message) < 400
    return message


def weights_sent(server: HubServer) -> int:
    return sum(request.sent for suffix in ("safetensors", "bin") for request in server.asked(f"*.{suffix}"))


# What arrives


def test_the_default_branch_loads(hub, at, folders):
    model = archport.load(REPO, **at)
    assert same(model, folders["main"])
    assert not model.training
    assert model.origin.name == REPO
    assert model.origin.commit == hub.repos[REPO].refs["main"]


def test_branch_tag_and_commit_are_told_apart(hub, at, folders):
    commit = hub.add(REPO, folders["step3000"], "step3000")
    hub.add(REPO, folders["next"], "refs/pr/1")
    at_branch, at_commit = (archport.load(REPO, revision=revision, **at) for revision in ("step3000", commit))
    assert same(at_branch, folders["step3000"])
    assert same(at_commit, folders["step3000"])
    assert not same(at_branch, folders["main"])
    assert same(archport.load(REPO, revision="refs/pr/1", **at), folders["next"])
    assert same(archport.load(REPO, **at), folders["main"])
    assert at_branch.origin.commit == at_commit.origin.commit == commit
    assert (at_branch.origin.revision, at_commit.origin.revision) == ("step3000", commit)


def test_a_second_load_downloads_nothing(hub, at, folders):
    archport.load(REPO, **at)
    sent = weights_sent(hub)
    assert sent == (folders["main"] / "model.safetensors").stat().st_size
    before = len(hub.requests)
    assert same(archport.load(REPO, **at), folders["main"])
    assert weights_sent(hub) == sent
    assert [(r.method, r.path.split("/")[-1]) for r in hub.requests[before:]] == [
        ("GET", "name"),
        ("HEAD", "config.json"),
    ]


def test_a_moved_branch_is_noticed(hub, at, folders):
    archport.load(REPO, **at)
    commit = hub.add(REPO, folders["next"])
    model = archport.load(REPO, **at)
    assert same(model, folders["next"])
    assert model.origin.commit == commit


def test_all_files_are_of_one_commit_when_the_branch_moves_meanwhile(hub, at, folders, monkeypatch):
    download = archport_hub._download

    def and_push(repo, name, *args, **more):
        path = download(repo, name, *args, **more)
        hub.add(REPO, folders["next"])
        return path

    monkeypatch.setattr(archport_hub, "_download", and_push)
    first = hub.repos[REPO].refs["main"]
    model = archport.load(REPO, **at)
    assert same(model, folders["main"])
    assert model.origin.commit == first


def test_sharded_weights_load(hub, at, folders):
    hub.add("ns/sharded", folders["sharded"])
    assert len(list(folders["sharded"].glob("model-*.safetensors"))) > 2
    assert same(archport.load("ns/sharded", **at), folders["sharded"])


def test_a_pickle_loads(hub, at, folders):
    hub.add("ns/pickle", folders["pickle"])
    assert same(archport.load("ns/pickle", **at), folders["pickle"])


def test_safetensors_are_preferred_to_a_pickle(hub, at, folders, tmp_path):
    hub.add("ns/two", shutil.copytree(folders["main"], tmp_path / "two"))
    shutil.copy(folders["pickle"] / "pytorch_model.bin", tmp_path / "two")
    assert same(archport.load("ns/two", **at), folders["main"])
    assert not hub.asked("*.bin")


def test_companions_arrive_and_are_exported(at, folders, tmp_path):
    model = archport.load(REPO, **at)
    archport.export(model, tmp_path / "exported")
    there = companions_of(folders["main"])
    assert model.origin.generation == json.loads((folders["main"] / "generation_config.json").read_text())
    assert {"generation_config.json", "tokenizer.json", "merges.txt"} <= set(there)
    for name in there:
        assert (tmp_path / "exported" / name).read_bytes() == (folders["main"] / name).read_bytes()
    assert same(archport.load(tmp_path / "exported"), folders["main"])


@BOTH
def test_weights_behind_a_redirect_arrive_and_the_token_does_not_go_there(hub, folders, at, ask):
    hub.tokens.add(SECRET)
    hub.add("ns/large", folders["large"])
    with HubServer() as cdn:
        cdn.add("ns/large", folders["large"])
        hub.cdn = cdn
        ask("ns/large", token=SECRET, **at)
        assert weights_sent(cdn) > 0
        assert all(request.authorization is None for request in cdn.requests)


# Planning


@pytest.mark.parametrize("name", ["main", "sharded"])
def test_one_tensor_of_a_plan_is_read_and_nothing_else(hub, at, folders, name):
    hub.add("ns/one", folders[name])
    plan = archport.plan("ns/one", **at)
    before = weights_sent(hub)
    step = next(step for step in plan.mapped if step.name == "blocks.1.mlp.down.weight")
    assert torch.equal(own_weight(plan, step), archport.load(folders[name]).blocks[1].mlp.down.weight)
    assert weights_sent(hub) - before == 8 + step.bytes


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("*.safetensors", status=200, body=b"x" * 100), "the server answers with 100 bytes"),
        (Fault("*.safetensors", status=206, body=b"x" * 7), "7 bytes with status 206, of no place, for model.safe"),
        (
            Fault("*.safetensors", status=206, body=b"x" * 8, headers={"Content-Range": "bytes 8-15/999"}),
            "8 bytes with status 206, bytes 8-15, for model.safetensors, expected bytes 0-7",
        ),
        (Fault("*.safetensors", status=404), "the server answers 404"),
        (Fault("*.safetensors", status=500, times=9), "tried 3 times, the server answers 500"),
    ],
)
def test_bytes_that_were_not_asked_for_are_no_tensor(hub, at, fault, message):
    plan = archport.plan(REPO, **at)
    hub.faults.append(fault)
    with pytest.raises(SourceError, match=re.escape(message)):
        own_weight(plan, plan.mapped[0])


def test_more_than_was_asked_for_is_not_taken_in(hub, at):
    plan = archport.plan(REPO, **at)
    place = {"Content-Range": "bytes 0-7/999"}
    hub.faults.append(Fault("*.safetensors", status=206, body=(64).to_bytes(8, "little"), headers=place))
    hub.faults.append(Fault("*.safetensors", status=206, body=b"x" * 10_000_000))
    with pytest.raises(SourceError, match=r"10000000 bytes for .*, expected at most"):
        own_weight(plan, plan.mapped[0])


@pytest.mark.parametrize("name", ["main", "sharded", "large"])
def test_a_plan_reads_headers_only_and_equals_that_of_the_folder(hub, at, folders, name):
    commit = hub.add("ns/planned", folders[name], "step3000")
    plan = archport.plan("ns/planned", revision="step3000", **at)
    local = archport.plan(folders[name])
    assert plan.steps == local.steps
    assert (plan.config, plan.dtype, plan.parameters) == (local.config, local.dtype, local.parameters)
    assert plan.checkpoint.names == local.checkpoint.names
    assert (plan.checkpoint.origin.commit, plan.checkpoint.origin.revision) == (commit, "step3000")
    requests = hub.asked("*.safetensors")
    assert len(requests) == len(local.checkpoint.names)
    assert all(request.range == "bytes=0-100000" and request.sent <= 100_001 for request in requests)


def test_a_plan_reads_a_small_part_of_a_large_file(hub, at, folders):
    hub.add("ns/large", folders["large"])
    archport.plan("ns/large", **at)
    assert 0 < weights_sent(hub) <= 100_001 < (folders["large"] / "model.safetensors").stat().st_size / 3


def test_a_plan_keeps_to_the_given_cache(hub, at, folders, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "default"))
    hub.add("ns/sharded", folders["sharded"])
    archport.plan("ns/sharded", **at)
    archport.load("ns/sharded", **at)
    assert not (tmp_path / "default").exists()


def test_a_plan_of_pickles_says_that_headers_cannot_be_read(hub, at, folders):
    hub.add("ns/pickle", folders["pickle"])
    message = failure(CheckpointError, archport.plan, "ns/pickle", **at)
    assert "pickle files show their shapes only when downloaded" in message
    assert not hub.asked("*.bin")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\x09" + b"\0" * 7 + b"not json!", b"\x02" + b"\0" * 7 + b"[]"], ids=repr
)
def test_a_damaged_header_is_one_error(hub, at, folders, tmp_path, content):
    hub.add("ns/damaged", shutil.copytree(folders["main"], tmp_path / "damaged"))
    (tmp_path / "damaged" / "model.safetensors").write_bytes(content)
    failure(CheckpointError, archport.plan, "ns/damaged", **at)


def test_an_unknown_dtype_is_named(hub, at, folders, tmp_path):
    hub.add("ns/odd", shutil.copytree(folders["main"], tmp_path / "odd"))
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (tmp_path / "odd" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    assert "F4" in failure(CheckpointError, archport.plan, "ns/odd", **at)


# The cache


def test_offline_loads_from_the_cache(hub, at, folders):
    commit = hub.add(REPO, folders["step3000"], "step3000")
    hub.add("ns/sharded", folders["sharded"])
    for source, revision in ((REPO, None), (REPO, "step3000"), ("ns/sharded", None)):
        archport.load(source, revision=revision, **at)
    before = len(hub.requests)
    hub.fail("*", status=500, times=math.inf)
    assert same(archport.load(REPO, offline=True, **at), folders["main"])
    assert same(archport.load("ns/sharded", offline=True, **at), folders["sharded"])
    for revision in ("step3000", commit):
        model = archport.load(REPO, revision=revision, offline=True, **at)
        assert same(model, folders["step3000"])
        assert (model.origin.commit, model.origin.revision) == (commit, revision)
    assert archport.plan(REPO, offline=True, **at).steps == archport.plan(folders["main"]).steps
    assert len(hub.requests) == before


@BOTH
def test_offline_with_an_empty_cache_says_so(hub, at, ask):
    message = failure(SourceError, ask, offline=True, **at)
    assert message == f"{REPO}: not in the cache: run once without offline"
    assert "at step3000: not in the cache" in failure(SourceError, ask, revision="step3000", offline=True, **at)
    assert not hub.requests


@BOTH
@pytest.mark.parametrize("name", ["main", "sharded"])
def test_offline_after_a_plan_says_that_weights_are_not_there(hub, at, folders, ask, name):
    hub.add("ns/planned", folders[name])
    archport.plan("ns/planned", **at)
    assert "run once without offline" in failure(SourceError, ask, "ns/planned", offline=True, **at)


@BOTH
def test_the_offline_setting_of_huggingface_hub_is_respected(hub, at, monkeypatch, ask):
    archport.load(REPO, **at)
    before = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ask(REPO, **at)
    assert len(hub.requests) == before
    assert "not in the cache" in failure(SourceError, ask, revision="step3000", **at)


def test_a_cache_that_cannot_be_written_is_named(at, tmp_path):
    (tmp_path / "file").touch()
    message = failure(SourceError, archport.load, **at | {"cache_dir": tmp_path / "file"})
    assert "the cache cannot be used" in message
    assert str(tmp_path / "file") in message


# Who may read


@BOTH
def test_the_token_is_sent(hub, at, ask):
    hub.tokens.add(SECRET)
    hub.repos[REPO].readers = {SECRET}
    ask(REPO, token=SECRET, **at)
    assert {request.authorization for request in hub.requests} == {f"Bearer {SECRET}"}


@BOTH
def test_the_token_of_the_environment_is_sent_unless_told_not_to(hub, at, monkeypatch, ask):
    hub.tokens.add(SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    ask(REPO, **at)
    assert {request.token for request in hub.requests} == {SECRET}
    before = len(hub.requests)
    ask(REPO, token=False, **at)
    assert {request.token for request in hub.requests[before:]} == {None}


@BOTH
@pytest.mark.parametrize("token", [None, SECRET])
def test_a_gated_repository_says_how_to_get_in(hub, at, ask, token):
    hub.tokens.add(SECRET)
    hub.repos[REPO].gate = {"hf_other"}
    message = failure(SourceError, ask, token=token, **at)
    assert "gated: ask for access on its page" in message
    assert LOG_IN in message
    assert SECRET not in message


@BOTH
@pytest.mark.parametrize("token", [None, SECRET])
def test_a_missing_and_a_private_repository_look_the_same(hub, at, folders, ask, token):
    hub.tokens.add(SECRET)
    hub.add("ns/hidden", folders["main"])
    hub.repos["ns/hidden"].readers = {"hf_other"}
    messages = [failure(SourceError, ask, source, token=token, **at) for source in ("ns/hidden", "ns/absent")]
    assert messages[0] == messages[1].replace("absent", "hidden")
    assert "no such repository on the Hub, or it is private: check the name" in messages[0]
    assert LOG_IN in messages[0]


@BOTH
def test_a_bad_token_is_refused_once_and_not_shown(hub, at, ask):
    message = failure(SourceError, ask, token="hf_wrong", **at)
    assert "the server refuses (401)" in message
    assert LOG_IN in message
    assert "hf_wrong" not in message
    assert len(hub.requests) == 1


@pytest.mark.parametrize("token", ["hf_with\nbreak", "hf_with…ellipsis", "hf_with_space "])
def test_a_token_that_cannot_be_sent_is_not_shown(at, token):
    message = failure(SourceError, archport.load, token=token, **at)
    assert "token" in message
    assert "hf_with" not in message


def test_asking_for_a_token_that_is_not_there_says_so(hub, at):
    assert LOG_IN in failure(SourceError, archport.load, token=True, **at)
    assert not hub.requests


# What is not there


@BOTH
@pytest.mark.parametrize("revision", ["nowhere", "0" * 40, "with space"])
def test_a_missing_revision_is_named(at, ask, revision):
    message = failure(SourceError, ask, revision=revision, **at)
    assert message == f"{REPO} at {revision}: no such branch, tag or commit: check the revision on its page"


@BOTH
def test_a_missing_config_is_named(hub, at, folders, tmp_path, ask):
    hub.add("ns/bare", shutil.copytree(folders["main"], tmp_path / "bare"))
    (tmp_path / "bare" / "config.json").unlink()
    assert "no config.json found, expected" in failure(CheckpointError, ask, "ns/bare", **at)


@BOTH
def test_a_repository_without_weights_says_what_it_expected(hub, at, folders, tmp_path, ask):
    hub.add("ns/bare", shutil.copytree(folders["main"], tmp_path / "bare"))
    (tmp_path / "bare" / "model.safetensors").unlink()
    assert "no weights found, expected model.safetensors or" in failure(CheckpointError, ask, "ns/bare", **at)


@BOTH
def test_a_missing_shard_is_named(hub, at, folders, tmp_path, ask):
    hub.add("ns/sharded", shutil.copytree(folders["sharded"], tmp_path / "sharded"))
    shard = sorted((tmp_path / "sharded").glob("model-*.safetensors"))[1]
    shard.unlink()
    message = failure(SourceError, ask, "ns/sharded", **at)
    assert "a file is missing" in message
    assert shard.name in message


@BOTH
@pytest.mark.parametrize("source", ["na me/x", "-ns/name", "ns/na--me", "ns/name.git", "n" * 120])
def test_an_invalid_id_is_refused_without_asking(hub, at, ask, source):
    assert "neither a folder nor a Hub id" in failure(SourceError, ask, source, **at)
    assert not hub.requests


# What fails on the way


@BOTH
@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("where", [f"/api/models/{REPO}", "*/config.json", "*/model.safetensors"])
def test_two_errors_of_the_server_are_overcome(hub, at, folders, ask, status, where):
    hub.fail(where, status=status, times=2)
    result = ask(REPO, **at)
    assert isinstance(result, archport.load_plan.LoadPlan) or same(result, folders["main"])


@BOTH
@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_keeps_failing_is_asked_three_times(hub, at, ask, status):
    hub.fail("*", status=status, times=math.inf)
    assert failure(SourceError, ask, **at) == f"{REPO}: tried 3 times, the server answers {status}; {OFFLINE}"
    assert len(hub.requests) == 3


@BOTH
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_keeps_failing_is_one_error_and_does_not_multiply_the_client_s_own_tries(hub, at, ask, name):
    hub.fail(f"*/{name}", status=503, times=math.inf)
    message = failure(SourceError, ask, **at)
    assert "the server answers 503" in message
    assert "try later" in message
    assert 3 <= len(hub.asked(f"*/{name}")) <= 8


@BOTH
@pytest.mark.parametrize("where", ["/api/*", "*/config.json", "*/model.safetensors"])
def test_being_asked_to_slow_down_is_said(hub, at, ask, where):
    hub.fail(where, status=429, times=math.inf)
    assert "the server asks to slow down (429): try again in some minutes" in failure(SourceError, ask, **at)
    assert len(hub.asked(where)) <= 8


@BOTH
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", ["/api/*", "*/config.json", "*/model.safetensors"])
def test_a_refusal_is_final(hub, at, ask, where, status):
    hub.fail(where, status=status, times=math.inf)
    message = failure(SourceError, ask, **at)
    assert f"the server refuses ({status})" in message
    assert LOG_IN in message
    assert len(hub.asked(where)) == 1


@BOTH
def test_a_server_that_is_no_hub_points_at_the_endpoint(hub, at, ask):
    hub.fail("*", status=404, times=math.inf)
    message = failure(SourceError, ask, **at)
    assert "the server answers 404" in message
    assert "HF_ENDPOINT" in message


@BOTH
@pytest.mark.parametrize("body", [b"<html>log in to this network</html>", b"[]", b"{}", b""])
def test_a_page_in_place_of_an_answer_is_one_error(hub, at, ask, body):
    hub.fail("*", status=200, body=body, times=math.inf)
    message = failure(SourceError, ask, **at)
    if body in (b"[]", b"{}"):  # JSON, so the server is there and means it
        assert message.endswith("the answer is not the Hub's: check HF_ENDPOINT if you set it")
    else:
        assert "no usable answer" in message
        assert message.endswith(OFFLINE)


@BOTH
def test_a_page_in_place_of_a_file_is_one_error(hub, at, ask):
    hub.fail("*/config.json", status=200, body=b"<html></html>", times=math.inf)
    assert "no usable answer" in failure(SourceError, ask, **at)


@BOTH
def test_redirects_in_a_circle_are_one_error(hub, at, ask):
    hub.fail("*", status=302, headers={"Location": "/api/models/ns/name"}, times=math.inf)
    assert "no usable answer" in failure(SourceError, ask, **at)


@BOTH
def test_a_closed_port_is_one_error_that_suggests_the_cache(hub, at, ask, folders):
    archport.load(REPO, **at)
    hub.stop()
    start = time.perf_counter()
    message = failure(SourceError, ask, **at)
    assert time.perf_counter() - start < 2
    assert message.startswith(f"{REPO}: tried 3 times, no usable answer (")
    assert message.endswith(OFFLINE)
    assert same(archport.load(REPO, offline=True, **at), folders["main"])


def test_a_server_that_goes_away_after_the_listing_is_one_error(hub, at, monkeypatch):
    listing = archport_hub._listing

    def and_close(*args):
        names = listing(*args)
        hub.stop()
        return names

    monkeypatch.setattr(archport_hub, "_listing", and_close)
    assert "no usable answer" in failure(SourceError, archport.load, **at)


@BOTH
@pytest.mark.parametrize("endpoint", ["http://[", "ftp://127.0.0.1", "nowhere"])
def test_an_endpoint_that_is_no_address_is_one_error(hub, at, ask, endpoint):
    assert "no usable answer" in failure(SourceError, ask, **at | {"endpoint": endpoint})
    assert not hub.requests


@BOTH
def test_a_silent_server_is_given_up(hub, at, ask, monkeypatch):
    monkeypatch.setattr("archport.files.hub.repository.TIMEOUT", 0.3)
    hub.fail("*", seconds=1, times=math.inf)
    assert "tried 3 times, no usable answer (ReadTimeout: " in failure(SourceError, ask, **at)
    assert len(hub.requests) == 3


@pytest.mark.parametrize("where", [f"/api/models/{REPO}", "*/config.json", "*/model.safetensors", "*/merges.txt"])
def test_a_body_cut_once_is_fetched_again(hub, at, folders, where):
    hub.fail(where, method="GET", cut=True)
    model = archport.load(REPO, **at)
    assert same(model, folders["main"])
    assert (model.origin.folder / "merges.txt").read_text() == "a b\n"


def test_a_header_cut_once_is_fetched_again(hub, at, folders):
    hub.fail("*/model.safetensors", method="GET", cut=True)
    assert archport.plan(REPO, **at).steps == archport.plan(folders["main"]).steps


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_body_that_is_always_cut_leaves_nothing_broken(hub, at, folders, name):
    hub.fail(f"*/{name}", method="GET", cut=True, times=math.inf)
    message = failure(SourceError, archport.load, **at)
    assert "tried 3 times, no usable answer" in message
    assert not list(at["cache_dir"].rglob("*.incomplete"))
    assert not list(at["cache_dir"].rglob(f"snapshots/*/{name}"))
    hub.faults.clear()
    assert same(archport.load(REPO, **at), folders["main"])


def test_one_shard_that_is_always_cut_keeps_the_others(hub, at, folders):
    hub.add("ns/sharded", folders["sharded"])
    hub.fail("*/model-00002-*", method="GET", cut=True, times=math.inf)
    failure(SourceError, archport.load, "ns/sharded", **at)
    hub.faults.clear()
    before = len(hub.requests)
    assert same(archport.load("ns/sharded", **at), folders["sharded"])
    again = [r.path.split("/")[-1] for r in hub.requests[before:] if r.method == "GET" and r.path.endswith("tensors")]
    assert len(again) == 1
    assert again[0].startswith("model-00002-")


def test_a_failure_of_xet_storage_is_one_error(hub, at, monkeypatch):
    def xet_get(**_):
        raise RuntimeError("Task error:\nCAS Client Error")  # what the Rust client raises, whatever went wrong

    monkeypatch.setattr("huggingface_hub.file_download.xet_get", xet_get)
    xet = {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": f"{hub.url}/xet-read-token", "Content-Length": "1000"}
    headers = {"ETag": "etag", "X-Repo-Commit": hub.repos[REPO].refs["main"], **xet}
    hub.fail("*/model.safetensors", status=200, headers=headers, times=math.inf)
    assert "no usable answer (RuntimeError: Task error: CAS" in failure(SourceError, archport.load, **at)


# From the command line


def archport_load(server: HubServer, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-m", "archport", "load", *arguments],
        env=environment | {"HF_ENDPOINT": server.url, "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_loads_a_revision(hub, folders, tmp_path):
    commit = hub.add(REPO, folders["step3000"], "step3000")
    done = archport_load(hub, tmp_path / "home", REPO, "--revision", "step3000")
    assert done.returncode == 0, done.stderr
    assert commit[:7] in done.stdout
    names = [path.name for path in (tmp_path / "home").rglob("model*")]
    assert choose_weights(names, "cache", {}) == "model.safetensors"


def test_the_command_line_suggests_the_cache_in_one_line(hub, tmp_path):
    hub.stop()
    done = archport_load(hub, tmp_path / "home", REPO)
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "--offline" in done.stderr
