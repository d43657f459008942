"""What transformers' image processors over Pillow make of pictures of many sizes, as checksums.

    python tests/parity/images.py OUT.json [--seed 1] [--count 120]

A picture is computed from its number, width and height by `pixels`, here and in the test alike, so none is kept. `crc` is the
CRC-32 of the rows of numbers, little-endian f32, `[patches, 3 * 2 * 14 * 14]`. `fixed` holds cases of SigLIP's and DINOv2's processors: their
settings as they write them, and the CRC-32 of `[3, height, width]`.
"""

import argparse
import json
import random
import zlib

import numpy as np
import PIL
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def pixels(number, width, height):
    """Noise, a slope under noise, or a chequered floor, by the picture's number."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    mixed = (x * 374761393 + y * 668265263 + c * 2246822519 + number * 3266489917) & 0xFFFFFFFF
    mixed ^= mixed >> 13
    noise = ((mixed * 1274126177) & 0xFFFFFFFF) >> 24
    kinds = [noise, (3 * x + 2 * y + 40 * c + (noise >> 4)) & 255, (((x // 7) ^ (y // 5)) & 1) * (200 + 20 * c)]
    return kinds[number % 3].astype(np.uint8)


def fixed(draw, count):
    """SigLIP's and DINOv2's, at sizes of their checkpoints and others."""
    cases = []
    for number in range(count):
        width, height = (int(2 ** draw.uniform(1, 9.6)) for _ in range(2))
        if max(width, height) > 100 * min(width, height):
            continue
        if number % 2:
            side = draw.choice([224, 98, 14 * draw.randrange(2, 20)])
            wide = draw.choice([side, 14 * draw.randrange(2, 20)])
            shortest = max(side, wide) + draw.choice([0, 32, draw.randrange(40)])
            processor = BitImageProcessorPil(size={"shortest_edge": shortest}, crop_size={"height": side, "width": wide}, **IMAGENET)
        else:
            side, wide = (draw.choice([224, 256, 384]),) * 2 if number % 4 else (draw.randrange(32, 300), draw.randrange(32, 300))
            processor = SiglipImageProcessorPil(size={"height": side, "width": wide})
        found = processor(images=[Image.fromarray(pixels(number, width, height))], return_tensors="np")["pixel_values"][0]
        settings = {key: value for key, value in json.loads(processor.to_json_string()).items() if value is not None}
        values = np.ascontiguousarray(found, dtype="<f4")
        cases.append(dict(number=number, width=width, height=height, settings=settings, crc=zlib.crc32(values.tobytes())))
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=120)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    sizes = [(1, 1), (384, 224), (396, 224), (512, 512), (640, 480), (300, 2), (70, 70), (28, 28), (5000, 30), (224, 384)]
    cases = []
    for number in range(options.count):
        width, height = sizes[number] if number < len(sizes) else (int(2 ** draw.uniform(1, 9.6)), int(2 ** draw.uniform(1, 9.6)))
        if max(width, height) > 200 * min(width, height):
            continue
        least = draw.choice([3136, 784, 28 * 28 * 64])
        most = draw.choice([12845056, 28 * 28 * 112, 28 * 28 * 336])
        processor = Qwen2VLImageProcessorPil(min_pixels=least, max_pixels=max(most, least))
        found = processor(images=[Image.fromarray(pixels(number, width, height))], return_tensors="np")
        rows = np.ascontiguousarray(found["pixel_values"], dtype="<f4")
        case = dict(number=number, width=width, height=height, min_pixels=least, max_pixels=max(most, least))
        cases.append(dict(case, grid=found["image_grid_thw"][0].tolist(), crc=zlib.crc32(rows.tobytes())))
    with open(options.out, "w") as file:
        json.dump({"pillow": PIL.__version__, "seed": options.seed, "cases": cases, "fixed": fixed(draw, options.count // 2)}, file, indent=None)
        file.write("\n")


if __name__ == "__main__":
    main()
