#!/usr/bin/env python3
"""Makes assets.tsv: sizes, flags, split and mass of AI2-THOR's assets, for the household crate.

In: `assets.json` as its first argument, a table drawn from the databases of the PyPI package `procthor`
(Apache-2.0, Allen Institute for AI). Its form: {"assets": {id: {"t": object type, "b": [x, y, z] metres,
"f": flags, "s": split, "kg": mass, "hole": [...]}}}. Out: tab-separated lines on stdout, sorted by id:

    id, type, x, y, z (millimetres, the box at rotation 0), flags, split, mass in grams

flags: p pickupable, m moveable, s static, r receptacle, o openable, g toggleable, k breakable, `-` none.
split: tr, va, te, `-` shared by all. mass: `-` unknown.

    python3 make_assets.py assets.json > assets.tsv
"""

import json
import sys


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        assets = json.load(file)["assets"]
    print("# id\ttype\tx_mm\ty_mm\tz_mm\tflags\tsplit\tgrams")
    for name in sorted(assets):
        asset = assets[name]
        size = [str(round(side * 1000)) for side in asset["b"]]
        mass = "-" if asset.get("kg") is None else str(round(asset["kg"] * 1000))
        print("\t".join([name, asset["t"], *size, asset["f"] or "-", asset.get("s") or "-", mass]))


if __name__ == "__main__":
    main()
