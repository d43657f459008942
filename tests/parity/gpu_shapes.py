"""Times the policy beside transformers on one GPU, at the shape of Qwen2.5-VL 3B or 7B with random weights.

    python tests/parity/gpu_shapes.py target/release/examples/bench_shapes [--work /tmp/shapes] [--shape 3b] [--seconds 220] [--lora]

The folder is drawn and written once; both load it. Two loads of work: 16 sequences of 2,048 tokens, all trained; and 32 prompts of
900 tokens with two pictures of 384 x 224 and a reply of 100 tokens. transformers uses scaled dot-product attention, gradient
checkpointing and fused AdamW in bfloat16, moments too; the policy keeps its moments in f32. Memory is the greatest that nvidia-smi
saw in use. Prints one JSON object a line.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

WORDS = dict(
    vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
    num_key_value_heads=2, max_position_embeddings=128000, rms_norm_eps=1e-6, tie_word_embeddings=True,
    rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]),
)  # fmt: skip
LARGE = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4)
SHAPES = {"3b": {}, "7b": LARGE | dict(tie_word_embeddings=False, vocab_size=152064)}
EYES = dict(
    depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048, patch_size=14,
    window_size=112, fullatt_block_indexes=[7, 15, 23, 31], tokens_per_second=2,
)  # fmt: skip
LOADS = {"text": (16, 2048), "pictures": (32, 900)}
GRID = (1, 16, 28)
LORA = r"model\.language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"


class Memory(threading.Thread):
    """Follows what the GPU has in use, MiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.over = 0, False

    def run(self):
        ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.over:
            self.peak = max(self.peak, int(subprocess.run(ask, capture_output=True, text=True).stdout.split()[0]))
            time.sleep(0.2)


def drawn(folder, shape):
    """Draws the folder in a process of its own, which gives its memory back."""
    command = [sys.executable, __file__, "-", "--work", str(folder.parent), "--shape", shape, "--part", "draw"]
    subprocess.run(command, check=True)


def draw(folder, shape):
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = WORDS | SHAPES[shape]
    eyes = EYES | dict(out_hidden_size=words["hidden_size"])
    config = Qwen2_5_VLConfig(text_config=words, vision_config=eyes, tie_word_embeddings=words["tie_word_embeddings"])
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder, max_shard_size="20GB")


def transformers(folder, lora):
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    started = time.time()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to("cuda")
    torch.cuda.synchronize()
    print(json.dumps({"who": "transformers", "load_s": time.time() - started}), flush=True)
    if lora:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=LORA))
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable(dict(use_reentrant=False))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    for load, (rows, tokens) in LOADS.items():
        ids = torch.randint(0, 100000, (rows, tokens), device="cuda")
        kinds, labels, more = torch.zeros_like(ids), ids.clone(), {}
        if load == "pictures":
            for offset in (20, 400):
                ids[:, offset : offset + 112] = 151655
                kinds[:, offset : offset + 112] = 1
            labels[:, :-100] = -100
            patches = 2 * rows * GRID[1] * GRID[2]
            more["pixel_values"] = torch.rand(patches, 1176, device="cuda", dtype=torch.bfloat16)
            more["image_grid_thw"] = torch.tensor([GRID] * 2 * rows, device="cuda")
        inputs = dict(input_ids=ids, mm_token_type_ids=kinds, labels=labels, use_cache=False, **more)
        forward, steps = [], []
        torch.cuda.reset_peak_memory_stats()
        model.eval()
        for _ in range(3):
            started = time.time()
            with torch.no_grad():
                float(model(**inputs).loss)
            forward.append(time.time() - started)
        model.train()
        for _ in range(3):
            started = time.time()
            loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            steps.append(time.time() - started)
        found = dict(who="transformers", load=load, forward_s=forward, step_s=steps, loss=float(loss.detach()))
        found |= dict(forward_tokens_per_s=rows * tokens / min(forward), step_tokens_per_s=rows * tokens / min(steps))
        found["allocated_gib"] = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/shapes"))
    parser.add_argument("--seconds", type=float, default=220.0, help="start nothing after this")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="3b")
    parser.add_argument("--lora", action="store_true", help="train adapters of the decoder alone, rank 16")
    parser.add_argument("--part", choices=["draw", "transformers"])
    options = parser.parse_args()
    folder = options.work / options.shape
    if options.part == "draw":
        return draw(folder, options.shape)
    if options.part == "transformers":
        return transformers(folder, options.lora)
    end = time.time() + options.seconds
    lora = ["--lora"] if options.lora else []
    again = [sys.executable, __file__, str(options.program), "--work", str(options.work), "--shape", options.shape, *lora, "--part"]
    if not (folder / "config.json").exists():
        drawn(folder, options.shape)
    print(json.dumps({"drawn_after_s": options.seconds - (end - time.time())}), flush=True)
    ours = [[str(options.program), str(folder), "--rows", str(r), "--tokens", str(t)] for r, t in LOADS.values()]
    ours[1].append("--pictures")
    for command in [ours[0] + lora, again + ["transformers"], ours[1] + lora]:
        if time.time() > end:
            break
        memory = Memory()
        memory.start()
        done = subprocess.run(command, timeout=max(end - time.time(), 1) + 10)
        memory.over = True
        print(json.dumps({"command": os.path.basename(command[0]), "exit": done.returncode, "peak_mib": memory.peak}), flush=True)


if __name__ == "__main__":
    main()
