import getpass
import os
import tempfile

import torch

# Before anything asks for the cache of torch.compile, which aborts on what it made for a CPU with other instructions.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}_{torch.backends.cpu.get_cpu_capability()}"
    f"_bfloat16_{torch.ops.mkldnn._is_mkldnn_bf16_supported()}",
)
# Before anything imports huggingface_hub: no test may leave this machine.
os.environ["HF_HUB_OFFLINE"] = "0"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_ENDPOINT", "http://127.0.0.1:9")

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pytest
import transformers

import archport
from archport.parity import kill
from archport.parity.catalogue import faults_for
from archport.parity.faults import Fault

from .hub_server import REPO, HubServer
from .references import FAMILIES, reference

SMALL = {"vocab_size": 67, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}

IN_SAMPLE = 24  # one in so many tests of a family is in the default run

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def pytest_collection_modifyitems(items):
    """Mark what is about an architecture beside the first three, but for a sample, another one in each test."""
    seen: Counter[str] = Counter()
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        words = {value.replace(",", " ").partition(" ")[0] for value in values if isinstance(value, str)}
        if words & FAMILIES:
            test = item.nodeid.partition("[")[0]
            if (crc32(test.encode()) + seen[test]) % IN_SAMPLE:
                item.add_marker("families")
            seen[test] += 1


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def some_faults(monkeypatch):
    """Every eighth fault of an architecture, from another one on in each: tools/count_kills.py plants all of them."""

    def some(arch: str) -> list[Fault]:
        return faults_for(arch)[archport.architectures().index(arch) % 8 :: 8]

    monkeypatch.setattr(kill, "faults_for", some)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real files that are not part of the repository; tests that use them skip where they are absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints that repositories may hold."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(["main", "step3000", "next", "sharded", "pickle", "large"]):
        model = reference("gpt_neox", seed=seed, **SMALL | ({"vocab_size": 2000} if name == "large" else {}))
        model.save_pretrained(root / name, max_shard_size="20KB" if name == "sharded" else "5GB")
        if name == "pickle":
            (root / name / "model.safetensors").unlink()
            torch.save(model.state_dict(), root / name / "pytorch_model.bin")
    (root / "main" / "tokenizer.json").write_text('{"version": "1.0"}')
    (root / "main" / "merges.txt").write_text("a b\n")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def hub(folders, monkeypatch, tmp_path) -> Iterator[HubServer]:
    """A server with one repository, and a client that does not wait between its tries."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr("archport.files.hub.repository.PAUSE", 0)
    for module in ("utils._http", "file_download"):  # these sleep up to 23 seconds between tries
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda _: None))
    with HubServer() as server:
        server.add(REPO, folders["main"])
        yield server


@pytest.fixture
def at(hub, tmp_path) -> dict[str, object]:
    """How to reach it, with a cache of one's own."""
    return {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
