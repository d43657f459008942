"""Whether transformers and peft read what the policy wrote, unchanged.

    cargo run --release -p policy --example write_back -- tests/parity/fixtures OUT
    python tests/parity/loads.py tests/parity/fixtures OUT

Each folder of OUT is opened by transformers as the family's own class: no tensor may be missing, left over or of another shape,
every parameter must be the one that transformers reads from the folder that was written back, and the scores of a sequence must
be the same bits. An adapter is opened by peft over that model, likewise.
"""

import json
import pathlib
import sys

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig

KINDS = {
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "llama": transformers.LlamaForCausalLM,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "llava": transformers.LlavaForConditionalGeneration,
}


def opened(folder):
    kind = KINDS[AutoConfig.from_pretrained(folder).model_type]
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: list(value) for key, value in info.items() if value and key != "error_msgs"}
    assert not wrong and not info.get("error_msgs"), f"{folder}: {wrong}"
    return model.eval()


def same(first, second, what):
    one, other = dict(first.named_parameters()), dict(second.named_parameters())
    assert one.keys() == other.keys(), f"{what}: {one.keys() ^ other.keys()}"
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{what}: {name} differs"


def scores(model):
    ids = torch.arange(1, 20)[None] % (model.config.get_text_config().vocab_size - 6) + 1
    with torch.no_grad():
        return model(input_ids=ids).logits


def main():
    source, written = (pathlib.Path(path) for path in sys.argv[1:3])
    counts = {"folders": 0, "adapters": 0, "parameters": 0}
    for folder in sorted(path for path in written.iterdir() if (path / "config.json").exists()):
        before, after = opened(source / folder.name), opened(folder)
        same(before, after, folder.name)
        assert torch.equal(scores(before), scores(after)), f"{folder.name}: scores differ"
        counts["folders"] += 1
        counts["parameters"] += sum(value.numel() for value in after.parameters())
        if (folder / "adapter").is_dir():
            before = PeftModel.from_pretrained(before, source / folder.name / "adapter")
            after = PeftModel.from_pretrained(after, folder / "adapter")
            same(before, after, f"{folder.name}, adapter")
            assert torch.equal(scores(before.base_model.model), scores(after.base_model.model)), f"{folder.name}: adapted scores differ"
            counts["adapters"] += 1
    counts |= {"transformers": transformers.__version__}
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
