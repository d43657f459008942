#!/usr/bin/env python3
"""Makes rooms.tsv: how many objects of each type a room of each type holds, on average, for the house generator.

In: files of houses of the ProcTHOR schema 1.0.0 (one house a line, plain or gzip), after `assets.json` as the first
argument (see make_assets.py). Out: tab-separated lines on stdout:

    room type, parent type (`-`: stands on the floor or hangs on a wall), type, mean per room or per parent

Only means of whole sets come out, no house.

    python3 make_rooms.py assets.json train.jsonl.gz val.jsonl.gz > rooms.tsv
"""

import collections
import gzip
import json
import sys


def inside(polygon: list, x: float, z: float) -> bool:
    within = False
    for a, b in zip(polygon, polygon[1:] + polygon[:1]):
        if (a["z"] > z) != (b["z"] > z) and x < (b["x"] - a["x"]) * (z - a["z"]) / (b["z"] - a["z"]) + a["x"]:
            within = not within
    return within


def rim(polygon: list, x: float, z: float) -> float:
    """Squared distance to the nearest corner-to-corner line of a rectilinear polygon."""
    best = float("inf")
    for a, b in zip(polygon, polygon[1:] + polygon[:1]):
        near_x = min(max(x, min(a["x"], b["x"])), max(a["x"], b["x"]))
        near_z = min(max(z, min(a["z"], b["z"])), max(a["z"], b["z"]))
        best = min(best, (x - near_x) ** 2 + (z - near_z) ** 2)
    return best


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        assets = json.load(file)["assets"]
    rooms: collections.Counter = collections.Counter()
    parents: collections.Counter = collections.Counter()
    counts: collections.Counter = collections.Counter()
    for name in sys.argv[2:]:
        opened = gzip.open(name, "rt") if name.endswith(".gz") else open(name, encoding="utf-8")
        with opened as lines:
            for line in lines:
                house = json.loads(line)
                rooms.update(room["roomType"] for room in house["rooms"])
                for thing in house["objects"]:
                    x, z = thing["position"]["x"], thing["position"]["z"]
                    order = lambda room: (not inside(room["floorPolygon"], x, z), rim(room["floorPolygon"], x, z))
                    room = min(house["rooms"], key=order)["roomType"]
                    kind = assets[thing["assetId"]]["t"]
                    counts[room, "-", kind] += 1
                    parents[room, kind] += 1
                    counts.update((room, kind, assets[child["assetId"]]["t"]) for child in thing.get("children", []))
    print("# room\tparent\ttype\tmean")
    for (room, parent, kind), count in sorted(counts.items()):
        mean = count / (rooms[room] if parent == "-" else parents[room, parent])
        print(f"{room}\t{parent}\t{kind}\t{mean:.4f}")


if __name__ == "__main__":
    main()
