"""Times the engine beside transformers' `generate` on one GPU, at the shape of Qwen2.5-VL 3B (or 7B) with random weights.

    python tests/parity/gpu_generate.py target/release/examples/bench_gpu [--work /tmp/shapes] [--shape 3b] [--seconds 400]

Contexts of 1,500 tokens, bfloat16. Decoding is the time of 33 new tokens less that of 1, at batches of 1, 8 and 64; prompts are a forward
pass of 8 with the last position's scores. Roofline: bytes of weights and of keys and values over 4.3 TB/s. Prints one JSON object a line.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import gpu_shapes

CONTEXT = 1500


def transformers(folder):
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).to("cuda").eval()
    found = {"who": "transformers"}
    with torch.no_grad():
        ids = torch.randint(0, 100000, (8, CONTEXT), device="cuda")
        times = []
        for _ in range(4):
            torch.cuda.synchronize()
            started = time.time()
            model(input_ids=ids, logits_to_keep=1, use_cache=True)
            torch.cuda.synchronize()
            times.append(time.time() - started)
        found["prefill_8_tokens_per_s"] = 8 * CONTEXT / min(times[1:])
        for batch in (1, 8, 64):
            ids = torch.randint(0, 100000, (batch, CONTEXT), device="cuda")

            def generate(new):
                torch.cuda.synchronize()
                started = time.time()
                mask = torch.ones_like(ids)
                model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0)
                torch.cuda.synchronize()
                return time.time() - started

            generate(2)
            found[f"batch_{batch}_tokens_per_s"] = batch * 32 / (generate(33) - generate(1))
    print(json.dumps(found), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/shapes"))
    parser.add_argument("--shape", choices=sorted(gpu_shapes.SHAPES), default="3b")
    parser.add_argument("--seconds", type=float, default=400.0, help="start nothing after this")
    parser.add_argument("--part", choices=["transformers"])
    parser.add_argument("--ours", default="", help="further arguments of the program, as one text")
    options = parser.parse_args()
    folder = options.work / options.shape
    if options.part == "transformers":
        return transformers(folder)
    end = time.time() + options.seconds
    if not (folder / "config.json").exists():
        gpu_shapes.drawn(folder, options.shape)
    again = [sys.executable, __file__, str(options.program), "--work", str(options.work), "--shape", options.shape, "--part", "transformers"]
    for command in [[str(options.program), str(folder), *options.ours.split()], again]:
        if time.time() < end:
            subprocess.run(command, timeout=max(end - time.time(), 1))


if __name__ == "__main__":
    main()
