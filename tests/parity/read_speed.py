"""Bytes a picture step, and read speed, of one run in the store and in its LeRobot export, by the same reader (pyarrow).

    errand export RUN --to lerobot --val 0 --out FOLDER
    python tests/parity/read_speed.py runs/RUN/trajectories FOLDER/train --run RUN

Prints one JSON object. Needs: pyarrow.
"""

import argparse
import json
import pathlib
import random
import time

import pyarrow.compute
import pyarrow.parquet

from open_store import committed_files


def bytes_of(paths):
    return sum(path.stat().st_size for path in paths)


def timed(read):
    read()
    begun = time.perf_counter()
    count = read()
    return count / (time.perf_counter() - begun)


def groups_with(file, column, number):
    """The row groups whose statistics allow for this number."""
    meta = file.metadata
    at = next(n for n in range(meta.num_columns) if meta.schema.column(n).path == column)
    chosen = []
    for group in range(meta.num_row_groups):
        stats = meta.row_group(group).column(at).statistics
        if stats is None or not stats.has_min_max or stats.min <= number <= stats.max:
            chosen.append(group)
    return chosen


def one_by_one(files, column, numbers, pictures):
    """Reads episodes one at a time; gives how many pictures came."""

    def read():
        count = 0
        for number in numbers:
            for file in files:
                groups = groups_with(file, column, number)
                if groups:
                    table = file.read_row_groups(groups)
                    rows = table.filter(pyarrow.compute.equal(table[column], number))
                    count += pictures(rows)
        return count

    return read


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=pathlib.Path)
    parser.add_argument("lerobot", type=pathlib.Path)
    parser.add_argument("--run", required=True)
    arguments = parser.parse_args()
    committed = committed_files(arguments.store, arguments.run)
    turns = [arguments.store / file["path"] for file in committed["turns"]]
    trajectories = [arguments.store / file["path"] for file in committed["trajectories"]]
    frames = sorted((arguments.lerobot / "data").rglob("*.parquet"))
    info = json.loads((arguments.lerobot / "meta/info.json").read_text())
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "image"]

    def of_store(rows):
        return sum(map(len, rows["pictures"].to_pylist()))

    def of_lerobot(rows):
        return sum(sum(1 for one in rows[name].to_pylist() if one["bytes"]) for name in cameras)

    opened = [pyarrow.parquet.ParquetFile(path) for path in turns]
    others = [pyarrow.parquet.ParquetFile(path) for path in frames]
    some = random.Random(1).sample(range(info["total_episodes"]), min(50, info["total_episodes"]))
    rows = sum(file.metadata.num_rows for file in opened)
    print(json.dumps({
        "turns": rows,
        "lerobot_frames": info["total_frames"],
        "store_bytes_per_turn": bytes_of(turns) / rows,
        "store_bytes_per_turn_with_tokens": bytes_of(turns + trajectories) / rows,
        "lerobot_bytes_per_frame": bytes_of(frames) / info["total_frames"],
        "store_pictures_per_second": timed(lambda: sum(of_store(file.read(columns=["pictures"])) for file in opened)),
        "lerobot_pictures_per_second": timed(lambda: sum(of_lerobot(file.read(columns=cameras)) for file in others)),
        "store_pictures_per_second_by_episode": timed(one_by_one(opened, "episode", some, of_store)),
        "lerobot_pictures_per_second_by_episode": timed(one_by_one(others, "episode_index", some, of_lerobot)),
    }, indent=1))


if __name__ == "__main__":
    main()
