"""Whether vLLM reads what the policy wrote, unchanged, and continues as transformers does from the folder that the policy had read.

    python tests/parity/loads_vllm.py make TOKENIZER SOURCE
    cargo run --release -p policy --example write_back -- SOURCE OUT
    python tests/parity/loads_vllm.py check SOURCE OUT [NAME ...]

`make` draws random models with heads of 64, which vLLM's attention on a CPU takes: one of each text family, one of Qwen2.5-VL with the
tokenizer of a Qwen2.5 folder, and an adapter over Qwen2; and takes 32 greedy tokens of each from transformers and peft. `check` takes them
from vLLM on OUT. A token may differ where the reference's two best scores are within 1e-3. With a picture vLLM's scores are others
than transformers' whichever folder it reads, so there vLLM on OUT is held to vLLM on SOURCE.
The Python of `make` is that of requirements.txt, that of `check` vllm_cpu.sh's, in the surroundings that its last lines export.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

TOKENS = 32
CLOSE = 1e-3
PROMPT = [5, 17, 200, 31, 8, 99, 340, 12, 77]
SHAPE = dict(hidden_size=256, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-6)


def drawn(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1:
                value.copy_(0.1 * noise + ("bias" not in name))
            else:
                # Where the head is the table, embeddings as long as a layer's output would only repeat the last token.
                value.copy_(noise * (0.1 if "embed_tokens" in name else 1 / np.sqrt(value[0].numel())))
    return model.float().eval()


def make(tokenizer, out):
    import transformers as t
    from peft import LoraConfig, get_peft_model

    text = dict(SHAPE, vocab_size=512, max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    drawn(t.Qwen2ForCausalLM(t.Qwen2Config(**text, tie_word_embeddings=True)), 1).save_pretrained(out / "qwen2")
    drawn(t.Qwen3ForCausalLM(t.Qwen3Config(**text, head_dim=64)), 2).save_pretrained(out / "qwen3")
    drawn(t.LlamaForCausalLM(t.LlamaConfig(**text)), 3).save_pretrained(out / "llama", max_shard_size="1MB")
    base = drawn(t.Qwen2ForCausalLM(t.Qwen2Config(**text)), 4)
    base.save_pretrained(out / "lora")
    adapted = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5 * 0.5)
    adapted.save_pretrained(out / "lora" / "adapter")
    (out / "lora" / "adapter" / "README.md").unlink(missing_ok=True)
    names = t.AutoTokenizer.from_pretrained(tokenizer)
    ids = {name: names.convert_tokens_to_ids(f"<|{name}|>") for name in ["image_pad", "video_pad", "vision_start", "vision_end"]}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    vision = dict(depth=2, hidden_size=128, intermediate_size=160, num_heads=2, out_hidden_size=256, fullatt_block_indexes=[1])
    config = t.Qwen2_5_VLConfig(
        text_config=dict(SHAPE, vocab_size=151936, max_position_embeddings=512, rope_parameters=rope, tie_word_embeddings=True),
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    config.text_config.tie_word_embeddings = True
    drawn(t.Qwen2_5_VLForConditionalGeneration(config), 6).save_pretrained(out / "qwen2_5_vl")
    names.save_pretrained(out / "qwen2_5_vl")
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor", "patch_size": 14}
    processor |= {"merge_size": 2, "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 12544}
    (out / "qwen2_5_vl" / "preprocessor_config.json").write_text(json.dumps(processor))
    for folder in sorted(out.iterdir()):
        (folder / "expected.json").write_text(json.dumps(by_transformers(folder)))


def picture():
    return Image.fromarray(np.random.default_rng(7).integers(0, 255, (84, 112, 3)).astype(np.uint8))


def by_transformers(folder):
    """The greedy continuation of the text, and by how much each token was the best."""
    import transformers as t

    eyes = hasattr(t.AutoConfig.from_pretrained(folder), "vision_config")
    kind = t.Qwen2_5_VLForConditionalGeneration if eyes else t.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32)
    if (folder / "adapter").is_dir():
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder / "adapter")
    found, gaps = [], []
    ids = torch.tensor([PROMPT])
    for _ in range(TOKENS):
        with torch.no_grad():
            best = model(input_ids=ids).logits[0, -1].topk(2)
        found.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    return found, gaps


def by_vllm(folder):
    """Greedy continuations: of the text and, for a model with eyes, of the text with a picture."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    eyes, adapter = (folder / "preprocessor_config.json").exists(), folder / "adapter"
    options = dict(model=str(folder), dtype="float32", enforce_eager=True, max_model_len=256, skip_tokenizer_init=not eyes)
    if adapter.is_dir():
        options |= dict(enable_lora=True, max_lora_rank=8)
    if eyes:
        options |= dict(limit_mm_per_prompt={"image": 1, "video": 0})
    prompts = [{"prompt_token_ids": PROMPT}]
    if eyes:
        config = json.loads((folder / "config.json").read_text())
        # vLLM writes the image token out itself, once for each of the picture's tokens.
        shown = [config["vision_start_token_id"], config["image_token_id"], config["vision_end_token_id"]]
        prompts.append({"prompt_token_ids": PROMPT + shown + PROMPT, "multi_modal_data": {"image": picture()}})
    lora = LoRARequest("adapter", 1, str(adapter)) if adapter.is_dir() else None
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    return [list(answer.outputs[0].token_ids) for answer in LLM(**options).generate(prompts, sampling, lora_request=lora)]


def asked(folder):
    """The same from a process of its own."""
    run = subprocess.run([sys.executable, __file__, "one", str(folder)], capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("tokens ")]
    assert lines, f"{folder}: {run.stdout[-3000:]} {run.stderr[-3000:]}"
    return json.loads(lines[-1][7:])


def check(source, out, names):
    report = {}
    folders = sorted(path for path in out.iterdir() if (path / "config.json").exists() and (not names or path.name in names))
    for folder in folders:
        for path in (source / folder.name).iterdir():
            if path.is_file() and not (folder / path.name).exists() and not path.name.startswith("model"):
                shutil.copy(path, folder)
        found, (expected, gaps) = asked(folder), json.loads((source / folder.name / "expected.json").read_text())
        equal = next((at for at in range(TOKENS) if found[0][at] != expected[at]), TOKENS)
        assert equal == TOKENS or gaps[equal] < CLOSE, f"{folder.name}: token {equal} is {found[0][equal]}, transformers' {expected[equal]}"
        report[folder.name] = {"equal_tokens": equal, "different_ids": len(set(found[0]))}
        if len(found) > 1:
            before = asked(source / folder.name)
            assert found == before, f"{folder.name}: vLLM continues {before} from what transformers wrote, {found} from what was written back"
            report[folder.name]["with_a_picture"] = {"equal_tokens": TOKENS, "different_ids": len(set(found[1]))}
        print(folder.name, report[folder.name], file=sys.stderr, flush=True)
    import vllm

    print(json.dumps(report | {"vllm": vllm.__version__}))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], pathlib.Path(sys.argv[3]))
    elif sys.argv[1] == "one":
        print("tokens " + json.dumps(by_vllm(pathlib.Path(sys.argv[2]))))
    else:
        check(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4:])
