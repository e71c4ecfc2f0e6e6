"""Train the small GPT-NeoX that ships inside archport, on the source text of Python's standard library.

Run from the repository root: ``python tools/make_demo_checkpoint.py`` (ten to twenty minutes on two cores).
`transformers` and `tokenizers` themselves write everything, so the checkpoint is an independent witness.
"""

import argparse
import math
import platform
import sysconfig
from collections import Counter
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

TARGET = Path("src/archport/demo")
HELD_BACK = "argparse.py"
SKIPPED = ("site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "__pycache__")
END = "<|endoftext|>"
CONTEXT = 256


def standard_library() -> dict[str, str]:
    """Every module of the standard library by its path, tests and tables of characters left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if not set(path.relative_to(root).parts) & set(SKIPPED)]
    return {str(path.relative_to(root)): path.read_text("utf-8", errors="ignore") for path in paths}


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 2000 tokens; the model's vocabulary is padded past it, as Pythia's is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)


def windows(ids: list[int]) -> list[dict[str, list[int]]]:
    """Consecutive, non-overlapping windows of one context each."""
    cut = [ids[i : i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    return [{"input_ids": window, "labels": window} for window in cut]


@torch.no_grad()
def model_loss(model: GPTNeoXForCausalLM, ids: list[int]) -> float:
    """Mean negative log-likelihood, in nats a token, over consecutive windows."""
    batch = torch.tensor([window["input_ids"] for window in windows(ids)])
    return sum(model(part, labels=part).loss.item() * len(part) for part in batch.split(16)) / len(batch)


def unigram_loss(train: list[int], held: list[int], vocabulary: int) -> float:
    """The same for a model that knows only how often each token occurs (add-one smoothed)."""
    counts = Counter(train)
    return -sum(math.log((counts[i] + 1) / (len(train) + vocabulary)) for i in held) / len(held)


CARD = """# archport demo checkpoint

A {parameters:,}-parameter GPT-NeoX, trained by `tools/make_demo_checkpoint.py` on the source text of the
Python {python} standard library ({tokens:,} tokens, {steps} steps of {batch} x {context})
and written by transformers {transformers}.
It is small enough to ship with the package and trained enough that a wrong port shows.

Loss on the held-back file `{held}`, in nats a token: **{loss:.3f}**; a unigram model: {unigram:.3f}.
"""


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()

    texts = standard_library()
    held_text = texts.pop(HELD_BACK)
    tokenizer = train_tokenizer(list(texts.values()))
    ids = tokenizer.backend_tokenizer.encode(END.join(texts.values())).ids
    held = tokenizer.backend_tokenizer.encode(held_text).ids

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=2048,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=768,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoXForCausalLM(config)
    arguments = TrainingArguments(
        output_dir="/tmp/archport-demo",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=2e-3,
        weight_decay=0.1,
        warmup_steps=args.steps // 20,
        lr_scheduler_type="cosine",
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        seed=0,
    )
    Trainer(model, arguments, train_dataset=windows(ids)).train()

    model = model.to(torch.float16).eval()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    loss = model_loss(GPTNeoXForCausalLM.from_pretrained(args.out, dtype=torch.float32), held)
    unigram = unigram_loss(ids, held, len(tokenizer))
    card = CARD.format(
        parameters=model.num_parameters(),
        python=platform.python_version(),
        tokens=len(ids),
        steps=args.steps,
        batch=args.batch,
        context=CONTEXT,
        transformers=transformers.__version__,
        held=HELD_BACK,
        loss=loss,
        unigram=unigram,
    )
    (args.out / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
