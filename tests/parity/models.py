"""Random small models with what transformers computes from them: the fixtures of the policy's parity tests.

    python tests/parity/models.py OUT --seed 1 --count 10 [--families qwen2,qwen3,llama,qwen2_5_vl,lora,llava,lora_llava]

Each case is a folder as `save_pretrained` writes it, with `parity.safetensors` beside the weights:
`ids.N` token ids of sequence N; `logits.N` its scores in f32; `grad.NAME` gradients of the summed negative log-likelihood of
all tokens of both sequences but pictures'; `greedy` 64 tokens that continue sequence 0, `gap` how far the best score lay over the second best.
A model with eyes adds `image.N.M` (RGB, u8), `offset.N`, `grid.N` and, of Qwen2.5-VL, `position.N`. LLaVA's encoder is frozen: SigLIP in even
cases, DINOv2 in odd ones; `preprocessor_config.json` is what their image processors write. LoRA cases have a folder `adapter`, their
logits and gradients are with it. Weights are rounded to the type in which they lie; all is computed in f32 from there.

A model in which transformers' own rounding, told by the same in f64 and by weights moved in their last bit, takes up more than a quarter of
what the tests allow would hold luck against luck: its weights are drawn again, and `drawn` in parity.json counts how often they were.
"""

import argparse
import copy
import json
import pathlib
import random
import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

HEADS = [(4, 2), (3, 1), (6, 3), (2, 2), (4, 1), (6, 2)]
GREEDY = 64
# A quarter of what the tests allow, of scores and of gradients as shares of their norm.
ROUNDING = 2.5e-5
ATTEMPTS = 50


def rope(draw, mrope=None):
    """Rotary parameters of any kind that the policy reads."""
    theta = draw.choice([1e4, 1e5, 1e6])
    if mrope:
        return {"rope_type": "default", "rope_theta": theta, "mrope_section": mrope}
    kind = draw.choice(["default", "default", "linear", "llama3", "yarn"])
    found = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        found["factor"] = draw.choice([2.0, 4.0, 8.0])
    if kind == "llama3":
        found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    if kind == "yarn":
        found |= {"original_max_position_embeddings": 32}
    return found


def text_shape(draw, dims=(4, 6, 8)):
    heads, kv = draw.choice(HEADS)
    dim = draw.choice(dims)
    return dict(
        vocab_size=draw.randrange(32, 52),
        hidden_size=heads * dim,
        intermediate_size=draw.randrange(10, 28),
        num_hidden_layers=draw.randrange(1, 4),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=512,
        rms_norm_eps=draw.choice([1e-5, 1e-6]),
        tie_word_embeddings=draw.random() < 0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    ), dim


def build(family, draw, number=0):
    if family == "llava":
        return llava(draw, number % 2 == 1)
    shape, dim = text_shape(draw)
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape, rope_parameters=rope(draw)))
    if family == "qwen3":
        shape["hidden_size"] = draw.choice([12, 16, 20, 26])
        return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=dim, attention_bias=draw.random() < 0.3, rope_parameters=rope(draw)))
    if family == "llama":
        if draw.random() < 0.5:
            shape["hidden_size"] = shape["num_attention_heads"] * draw.choice([3, 5, 7])
        flags = dict(attention_bias=draw.random() < 0.3, mlp_bias=draw.random() < 0.3)
        return LlamaForCausalLM(LlamaConfig(**shape, head_dim=dim, **flags, rope_parameters=rope(draw)))
    shape, dim = text_shape(draw, dims=(6, 8))
    half = dim // 2
    time = draw.randrange(1, half - 1)
    height = draw.randrange(1, half - time)
    patch = draw.choice([4, 6])
    depth = draw.randrange(2, 5)
    heads = draw.choice([1, 2, 3])
    vision = dict(
        depth=depth,
        hidden_size=heads * draw.choice([4, 8]),
        intermediate_size=draw.randrange(10, 28),
        num_heads=heads,
        patch_size=patch,
        window_size=2 * patch * draw.choice([1, 2, 3, 4]),
        out_hidden_size=shape["hidden_size"],
        fullatt_block_indexes=sorted(draw.sample(range(depth), draw.randrange(0, depth))),
        tokens_per_second=2,
    )
    vocabulary = shape["vocab_size"]
    tied = shape.pop("tie_word_embeddings")
    config = Qwen2_5_VLConfig(
        text_config=dict(shape, rope_parameters=rope(draw, [time, height, half - time - height])),
        vision_config=vision,
        tie_word_embeddings=tied,
        image_token_id=vocabulary - 3,
        video_token_id=vocabulary - 2,
        vision_start_token_id=vocabulary - 5,
        vision_end_token_id=vocabulary - 4,
    )
    config.text_config.tie_word_embeddings = tied
    return Qwen2_5_VLForConditionalGeneration(config)


def llava(draw, dinov2):
    """A frozen encoder and a projector before one of the decoders."""
    text = build(draw.choice(["qwen2", "qwen3", "llama"]), draw).config
    depth, heads, patch = draw.randrange(2, 5), draw.choice([1, 2, 3]), draw.choice([4, 5])
    size = patch * draw.randrange(2, 5) + draw.randrange(0, patch)
    vision = dict(
        hidden_size=heads * draw.choice([4, 6, 8]),
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=size,
        patch_size=patch,
        layer_norm_eps=draw.choice([1e-5, 1e-6]),
    )
    if dinov2:
        vision |= dict(model_type="dinov2", mlp_ratio=draw.choice([2, 3]), qkv_bias=draw.random() < 0.7)
        vision |= dict(use_swiglu_ffn=draw.random() < 0.4, use_mask_token=draw.random() < 0.7)
    else:
        vision |= dict(model_type="siglip_vision_model", intermediate_size=draw.randrange(10, 28))
        if draw.random() < 0.3:
            vision["vision_use_head"] = False
    config = LlavaConfig(
        text_config=text.to_dict(),
        vision_config=vision,
        image_token_index=text.vocab_size - 3,
        projector_hidden_act="gelu",
        vision_feature_layer=draw.choice([-1, -2, -2, 1, [-1, 0], [-2, -1]]),
        vision_feature_select_strategy=draw.choice(["default", "full"]),
        multimodal_projector_bias=draw.random() < 0.7,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.requires_grad_(False)
    if dinov2:
        # Sometimes the size that its positions were learned at, otherwise another one.
        height, width = (size, size) if draw.random() < 0.3 else (patch * draw.randrange(2, 6) for _ in range(2))
        shortest = max(height, width) + draw.randrange(0, 6)
        model.processor = BitImageProcessorPil(size={"shortest_edge": shortest}, crop_size={"height": height, "width": width})
    else:
        model.processor = SiglipImageProcessorPil(size={"height": size, "width": size})
    return model


def spread(model, generator, dtype):
    """Weights under which a mistake shows: no tensor is zero or one, and scores are far apart."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() == 1 and "bias" not in name:
                value.copy_(1 + 0.2 * noise)
            elif value.dim() == 1:
                value.copy_(0.3 * noise)
            elif any(part in name for part in ["embed_tokens", "lm_head", "position_embedding", "cls_token"]):
                value.copy_(noise * 0.7)
            else:
                value.copy_(noise * 1.2 / np.sqrt(value[0].numel()))
            value.copy_(value.to(dtype).float())
    return model


def picture(draw, numbers, patch):
    """Noise over a slope, of a size that is seldom a whole number of tokens."""
    height, width = (draw.randrange(patch, 6 * patch) for _ in range(2))
    slope = np.add.outer(np.arange(height) * draw.randrange(5), np.arange(width) * draw.randrange(5))[..., None]
    return ((slope + numbers.integers(0, 90, (height, width, 3))) % 256).astype(np.uint8)


def with_eyes(model, draw, numbers):
    """One conversation: turns of text with 2 to 6 pictures in all."""
    config = model.config
    patch = config.vision_config.patch_size
    processor = Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=(2 * patch) ** 2, max_pixels=(2 * patch) ** 2 * 12)
    words = lambda count: [draw.randrange(1, config.text_config.vocab_size - 5) for _ in range(count)]
    ids, images, offsets = words(draw.randrange(1, 6)), [], []
    pictures = draw.randrange(2, 7)
    while len(images) < pictures:
        for _ in range(min(draw.randrange(1, 3), pictures - len(images))):
            image = picture(draw, numbers, 2 * patch)
            grid = processor(images=[Image.fromarray(image)], return_tensors="pt")["image_grid_thw"][0]
            offsets.append(len(ids) + 1)
            ids += [config.vision_start_token_id] + [config.image_token_id] * int(grid.prod() // 4) + [config.vision_end_token_id]
            images.append(image)
        ids += words(draw.randrange(2, 9))
    seen = processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    ids = torch.tensor([ids])
    kinds = (ids == config.image_token_id).long()
    inputs = dict(input_ids=ids, pixel_values=seen["pixel_values"], image_grid_thw=seen["image_grid_thw"], mm_token_type_ids=kinds)
    positions, _ = model.model.get_rope_index(ids, kinds, image_grid_thw=seen["image_grid_thw"])
    extra = {"offset": torch.tensor(offsets), "grid": seen["image_grid_thw"], "position": positions[:, 0].contiguous()}
    return inputs, extra, images


def before_encoder(model, draw, numbers):
    """The same behind an encoder: each picture costs as many tokens as the encoder's states give the projector."""
    config = model.config
    vision = config.vision_config
    words = lambda count: [draw.randrange(1, config.text_config.vocab_size - 5) for _ in range(count)]
    ids, images, offsets, grids = words(draw.randrange(1, 6)), [], [], []
    pictures = draw.randrange(2, 7)
    while len(images) < pictures:
        for _ in range(min(draw.randrange(1, 3), pictures - len(images))):
            image = picture(draw, numbers, 2 * vision.patch_size)
            height, width = model.processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"].shape[2:]
            grids.append([1, height // vision.patch_size, width // vision.patch_size])
            tokens = grids[-1][1] * grids[-1][2] + (vision.model_type == "dinov2")
            offsets.append(len(ids))
            ids += [config.image_token_index] * (tokens - (config.vision_feature_select_strategy == "default"))
            images.append(image)
            # Two pictures may lie side by side, with nothing between them.
            ids += words(draw.randrange(0, 3))
        ids += words(draw.randrange(2, 9))
    seen = model.processor(images=[Image.fromarray(image) for image in images], return_tensors="pt")
    inputs = dict(input_ids=torch.tensor([ids]), pixel_values=seen["pixel_values"])
    return inputs, {"offset": torch.tensor(offsets), "grid": torch.tensor(grids)}, images


def greedy(model, inputs):
    """The best continuation, and by how much each token was the best."""
    found, gaps = [], []
    ids = inputs["input_ids"]
    for _ in range(GREEDY):
        more = dict(inputs, input_ids=ids)
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            more["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, ids.shape[1] - kinds.shape[1]))
        scores = model(**more).logits[0, -1]
        # The engine never samples vision tokens, so neither does the reference.
        config = model.config
        if hasattr(config, "image_token_id"):
            scores[config.text_config.vocab_size - 5 :] = -1e9
        best = scores.topk(2)
        found.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        ids = torch.cat([ids, best.indices[:1][None]], 1)
    return torch.tensor(found), torch.tensor(gaps)


def file_name(name):
    """A parameter's name in the file, from its name in memory."""
    name = name.replace("base_model.model.", "")
    if "multi_modal_projector" in name:
        return name.removeprefix("model.")
    name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    return name.replace(".base_layer", "")


def sequences(model, draw, numbers, vocabulary):
    """What a model is shown: inputs, and what the fixture says of them."""
    both = []
    for number in range(2):
        if "pixel" in model.main_input_name or hasattr(model.config, "vision_config"):
            inputs, extra, images = (before_encoder if hasattr(model, "processor") else with_eyes)(model, draw, numbers)
            extra = {f"{key}.{number}": value for key, value in extra.items()}
            extra |= {f"image.{number}.{i}": torch.from_numpy(image) for i, image in enumerate(images)}
        else:
            inputs = dict(input_ids=torch.tensor([[draw.randrange(vocabulary) for _ in range(draw.randrange(20, 60))]]))
            extra = {}
        both.append((inputs, extra | {f"ids.{number}": inputs["input_ids"][0]}))
    return both


def file_names(model, adapted):
    """Trained parameters, by their names in the file."""
    if adapted:
        named = {"base_model.model." + name.replace(".default", ""): value for name, value in model.named_parameters()}
    else:
        # LLaVA's files have the decoder under a name of its own.
        decoder = lambda name: "language_model." if hasattr(model, "processor") and "multi_modal_projector" not in name else ""
        named = {decoder(name) + file_name(name): value for name, value in model.named_parameters()}
    return {name: value for name, value in named.items() if value.requires_grad}


def pass_over(model, shown, adapted):
    """Scores, loss and gradients."""
    found, total = {}, 0
    for number, (inputs, _) in enumerate(shown):
        logits = model(**inputs).logits[0]
        # Nobody predicts a picture.
        targets = inputs["input_ids"][0, 1:].clone()
        targets[targets == getattr(model.config, "image_token_id", -1)] = -100
        total = total + torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="sum")
        found[f"logits.{number}"] = logits.detach().contiguous()
    model.zero_grad()
    total.backward()
    found["loss"] = total.detach().reshape(1)
    for name, value in file_names(model, adapted).items():
        found["grad." + name] = value.grad.contiguous()
    return found


class Double(TorchFunctionMode):
    """Leaves f64 as it is where transformers asks for f32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        wide = args and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        if wide and (name == "float" or name == "to" and torch.float32 in [*args, *kwargs.values()]):
            return args[0]
        if wide and kwargs.get("dtype") == torch.float32:
            kwargs = dict(kwargs, dtype=torch.float64)
        return function(*args, **kwargs)


def rounding(model, shown, found, adapted, generator):
    """The greatest distance of f32 from f64, as the tests measure it: of what was found, and of three models a last bit away."""
    wide = copy.deepcopy(model).double()
    for name, value in wide.named_buffers():
        # Angles are f32's own in both.
        if "inv_freq" in name:
            value.data = value.data.float()
    widened = [({k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}, extra) for inputs, extra in shown]
    with Double():
        exact = pass_over(wide, widened, adapted)
    all_found = [found]
    for _ in range(3):
        near = copy.deepcopy(model)
        with torch.no_grad():
            for value in near.parameters():
                value.mul_(1 + torch.randn(value.shape, generator=generator) * 2**-24)
        all_found.append(pass_over(near, shown, adapted))
    whole = sum(float(value.square().sum()) for name, value in exact.items() if name.startswith("grad.")) ** 0.5

    def off(name, value):
        if name.startswith("grad."):
            size = float(exact[name].norm())
            return max(0.0, float((value - exact[name]).norm()) - 1e-7 * whole) / size if size else 0.0
        return float((value - exact[name]).abs().max())

    return max(off(name, value) for found in all_found for name, value in found.items() if name != "loss")


def adapt(model, draw, generator, family):
    from peft import LoraConfig, get_peft_model

    language = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    some = draw.sample(language, draw.randrange(1, 8))
    if family == "qwen2_5_vl":
        eyes = draw.choice(["", "qkv", "proj", "qkv|proj|mlp.(gate|up|down)_proj|merger.mlp.(0|2)"])
        target = r".*language_model.*\.(" + "|".join(some) + ")"
        target = f"({target})|(.*visual.*({eyes}))" if eyes else target
        target = target.replace("proj))", "proj))").replace("(proj)", r"(attn\.proj)").replace("qkv|proj|", r"qkv|attn\.proj|")
    elif family == "llava":
        projector = draw.choice(["", "|(.*multi_modal_projector.linear_(1|2))"])
        target = r"(.*language_model.*\.(" + "|".join(some) + "))" + projector
    else:
        target = some
    config = LoraConfig(
        r=draw.randrange(1, 6),
        lora_alpha=draw.choice([1, 4, 16]),
        target_modules=target,
        use_rslora=draw.random() < 0.3,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        # As large as the base's own matrices, whatever the scale: more would only make rounding show.
        scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                size = 1 / value.shape[1] ** 0.5 / (scale if "lora_B" in name else 1)
                value.copy_(torch.randn(value.shape, generator=generator) * size * 0.7)
    return adapted


def case(family, number, seed, out):
    name = f"{family}-{number}"
    for attempt in range(ATTEMPTS):
        if drawn(family, number, seed, attempt, out / name):
            return
    raise SystemExit(f"{name}: {ATTEMPTS} draws of its weights all round too much")


def drawn(family, number, seed, attempt, folder):
    """Draws weights for a case and writes it; false where rounding takes up too much of what the tests allow."""
    draw = random.Random(f"{seed} {folder.name}")
    generator = torch.Generator().manual_seed(draw.randrange(1 << 31) + attempt)
    numbers = np.random.default_rng(draw.randrange(1 << 31))
    base = draw.choice(["qwen2", "qwen3", "llama", "qwen2_5_vl", "qwen2_5_vl"]) if family == "lora" else family.removeprefix("lora_")
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float16])
    model = spread(build(base, draw, number).eval(), generator, dtype)
    text = model.config.get_text_config()
    shutil.rmtree(folder, ignore_errors=True)
    shards = draw.choice(["1GB", "20KB"])
    # A copy is narrowed: narrowing would take the rotary frequencies along.
    copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=shards)
    if hasattr(model, "processor"):
        model.processor.save_pretrained(folder)
    adapted = family.startswith("lora")
    if adapted:
        wrapped = adapt(model, draw, generator, base)
        wrapped.save_pretrained(folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        # Called as the base is: the wrapper only adds the adapter.
        model = wrapped.base_model.model
    shown = sequences(model, draw, numbers, text.vocab_size)
    found = pass_over(model, shown, adapted)
    lost = rounding(model, shown, found, adapted, generator)
    if lost > ROUNDING:
        return False
    for _, extra in shown:
        found |= extra
    with torch.no_grad():
        found["greedy"], found["gap"] = greedy(model, shown[0][0])
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file(found, folder / "parity.safetensors")
    versions = {"seed": seed, "dtype": str(dtype).removeprefix("torch."), "transformers": __import__("transformers").__version__}
    about = {"family": base} | versions | {"drawn": attempt + 1, "rounding": float(f"{lost:.1e}")}
    (folder / "parity.json").write_text(json.dumps(about, indent=1) + "\n")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10, help="cases of each family")
    parser.add_argument("--families", default="qwen2,qwen3,llama,qwen2_5_vl,lora,llava,lora_llava")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for family in options.families.split(","):
        for number in range(options.count):
            case(family, number, options.seed, options.out)


if __name__ == "__main__":
    main()
