"""Bytes a picture step, and read speed, of one run in the store and in its LeRobot export, by the same reader (pyarrow), and in
SPOC's layout, whose films PyAV decodes. The store and LeRobot give PNG files, decoded by Pillow where `decoded` is said.

    errand export RUN --to lerobot --val 0 --out FOLDER
    errand export RUN --to spoc --val 0 --out OTHER
    python tests/parity/read_speed.py runs/RUN/trajectories FOLDER/train --run RUN [--spoc OTHER]

Prints one JSON object. Needs: pyarrow, pillow; with --spoc also av.
"""

import argparse
import io
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


def decoded(pictures):
    """Decodes PNG files to the last pixel; gives how many there were."""
    import PIL.Image

    count = 0
    for one in pictures:
        PIL.Image.open(io.BytesIO(one["bytes"])).load()
        count += 1
    return count


def films(folder):
    """The two films of each episode of SPOC's layout."""
    found = sorted(folder.glob("*/*/*/raw_navigation_camera__*.mp4"))
    return [(film, film.with_name(film.name.replace("navigation", "manipulation"))) for film in found]


def shown(pairs):
    """Decodes films; gives how many pictures there were."""
    import av

    count = 0
    for film in (film for pair in pairs for film in pair):
        with av.open(str(film)) as video:
            count += sum(frame.to_ndarray(format="rgb24").ndim == 3 for frame in video.decode(video=0))
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=pathlib.Path)
    parser.add_argument("lerobot", type=pathlib.Path)
    parser.add_argument("--run", required=True)
    parser.add_argument("--spoc", type=pathlib.Path)
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
    figures = {
        "turns": rows,
        "lerobot_frames": info["total_frames"],
        "store_bytes_per_turn": bytes_of(turns) / rows,
        "store_bytes_per_turn_with_tokens": bytes_of(turns + trajectories) / rows,
        "lerobot_bytes_per_frame": bytes_of(frames) / info["total_frames"],
        "store_pictures_per_second": timed(lambda: sum(of_store(file.read(columns=["pictures"])) for file in opened)),
        "lerobot_pictures_per_second": timed(lambda: sum(of_lerobot(file.read(columns=cameras)) for file in others)),
        "store_pictures_per_second_by_episode": timed(one_by_one(opened, "episode", some, of_store)),
        "lerobot_pictures_per_second_by_episode": timed(one_by_one(others, "episode_index", some, of_lerobot)),
    }
    if arguments.spoc:
        pairs = films(arguments.spoc)
        chosen = random.Random(1).sample(pairs, min(50, len(pairs)))

        def of_store_decoded(rows):
            return sum(decoded(pictures) for pictures in rows["pictures"].to_pylist())

        def of_lerobot_decoded(rows):
            return sum(decoded(one for one in rows[name].to_pylist() if one["bytes"]) for name in cameras)

        figures |= {
            "spoc_film_bytes_per_frame": bytes_of(film for pair in pairs for film in pair) / info["total_frames"],
            "store_decoded_per_second_by_episode": timed(one_by_one(opened, "episode", some, of_store_decoded)),
            "lerobot_decoded_per_second_by_episode": timed(one_by_one(others, "episode_index", some, of_lerobot_decoded)),
            "spoc_decoded_per_second_by_episode": timed(lambda: shown(chosen)),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
