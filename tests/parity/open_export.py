"""Opens what `errand export` wrote with the libraries that it is for, and compares counts and values with the store.

    python tests/parity/open_export.py verl|messages|sharegpt|lerobot|spoc FOLDER --store runs/first/trajectories --run first

Prints what was compared as JSON. Exit code 1 where anything differs.
Needs: pyarrow, pandas, duckdb, datasets, pillow. With --verl also verl and torch: its RLHFDataset is made over the files. With
--lerobot also lerobot: its LeRobotDataset is; without it the files are checked against the documented schema of v3.0. `spoc` needs
h5py and av: sensors and films are checked against the layout that SPOC's loader reads.
"""

import argparse
import io
import json
import pathlib
import sys

import datasets
import duckdb
import numpy
import pandas
import PIL.Image
import pyarrow.parquet

from open_store import committed_files


def recorded(store, run):
    """The store's trajectories and turns by episode, as plain dictionaries."""
    files = committed_files(store, run)
    tables = {kind: [pyarrow.parquet.ParquetFile(store / file["path"]).read() for file in of_kind] for kind, of_kind in files.items()}
    rows = {row["id"]: row for table in tables["trajectories"] for row in table.to_pylist()}
    for row in rows.values():
        row["lived"] = []
    for table in tables["turns"]:
        for turn in table.to_pylist():
            rows[turn["id"]]["lived"].append(turn)
    return rows


def check_images(images, expected):
    """Pictures decode, and are as many as expected."""
    assert len(images) == expected, (len(images), expected)
    for image in images:
        picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.open(io.BytesIO(image["bytes"]))
        picture.load()
        assert picture.width > 0


def texts(content):
    """A message's text with `<image>` put back, however its content is written."""
    if isinstance(content, str):
        return content
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in content)


def compare_messages(messages, row, whole):
    """The words of a conversation are those of the record."""
    told = [(m["role"], texts(m["content"])) for m in messages if m["role"] != "system"]
    lived = []
    for turn in row["lived"]:
        lived += [("user", turn["observation"]), ("assistant", turn["reply"])]
    assert told == (lived if whole else lived[:1]), (told[:2], lived[:2])


def no_level_twice(splits, rows):
    levels = {split: {rows[episode]["level"] for episode in episodes} for split, episodes in splits.items()}
    assert not set.intersection(*levels.values()) or len(levels) == 1, "a level is in two splits"


def check_talk(folder, rows, kind):
    """verl's prompts and Hugging Face messages: datasets, pandas, DuckDB and pyarrow."""
    paths = {path.stem: str(path) for path in sorted((folder / "data").glob("*.parquet"))}
    loaded = datasets.load_dataset("parquet", data_files=paths)
    splits, pictures = {}, 0
    for split, table in loaded.items():
        frame = pandas.read_parquet(paths[split])
        in_sql = duckdb.sql(f"select count(*) from '{paths[split]}'").fetchall()[0][0]
        assert len(frame) == in_sql == table.num_rows == pyarrow.parquet.read_metadata(paths[split]).num_rows
        splits[split] = []
        for entry in table:
            facts = entry["extra_info"] if kind == "verl" else entry
            row = rows[facts["episode"]]
            splits[split].append(facts["episode"])
            messages = entry["prompt"] if kind == "verl" else entry["messages"]
            compare_messages(messages, row, kind != "verl")
            assert facts["success"] == row["success"] and facts["steps"] == row["steps"] and facts["level"] == row["level"]
            assert abs(facts["return"] - row["return"]) < 1e-6
            shown = sum(len(turn["frames"]) for turn in row["lived"][: 1 if kind == "verl" else None])
            if "images" in entry:
                check_images(entry["images"], shown)
                pictures += shown
            else:
                assert shown == 0
            if kind == "verl":
                assert entry["reward_model"]["style"] == "rule" and entry["data_source"] == row["world"]
    no_level_twice(splits, rows)
    return {"rows": sum(map(len, splits.values())), "pictures": pictures, "splits": {k: len(v) for k, v in splits.items()}}


def kept_pictures(turn):
    """The pictures of a turn that the store kept: camera and pixels."""
    bytes_of = {picture["path"]: picture["bytes"] for picture in turn["pictures"]}
    kept = [(frame["camera"], bytes_of.get(frame["digest"] + ".png")) for frame in turn["frames"]]
    return [(camera, numpy.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))) for camera, data in kept if data]


def check_verl_itself(folder, rows):
    """verl's own dataset over the same files: its prompts have the record's words and pixels."""
    import verl
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    config = OmegaConf.create({"prompt_key": "prompt", "image_key": "images", "max_prompt_length": 4096, "filter_overlong_prompts": False, "truncation": "error"})
    paths = sorted(str(path) for path in (folder / "data").glob("*.parquet"))
    # Prompts with pictures want a processor to be there; without a filter on length nothing is asked of it.
    made = RLHFDataset(data_files=paths, tokenizer=None, config=config, processor=object())
    told = sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
    assert len(made) == told, (len(made), told)
    pictures = 0
    for at in range(len(made)):
        entry = made[at]
        row = rows[entry["extra_info"]["episode"]]
        compare_messages(entry["raw_prompt"], row, False)
        assert entry["index"] == entry["extra_info"]["index"] and entry["reward_model"]["style"] == "rule"
        parts = [part for message in entry["raw_prompt"] if not isinstance(message["content"], str) for part in message["content"]]
        shown = [numpy.asarray(part["image"].convert("RGB")) for part in parts if part["type"] == "image"]
        kept = kept_pictures(row["lived"][0])
        assert len(shown) == len(row["lived"][0]["frames"])
        assert not kept or all((a == b).all() for a, (_, b) in zip(shown, kept, strict=True)), entry["extra_info"]["episode"]
        pictures += len(kept)
    batch = collate_fn([made[at] for at in range(min(4, len(made)))])
    assert len(batch["raw_prompt"]) == min(4, len(made))
    return {"verl": verl.__version__, "verl_rows": len(made), "verl_pictures": pictures, "verl_keys": sorted(made[0])}


def check_sharegpt(folder, rows):
    splits, pictures = {}, 0
    for path in sorted(folder.glob("*.jsonl")):
        table = datasets.load_dataset("json", data_files=str(path), split="train")
        splits[path.stem] = list(table["id"])
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            names = {"human": "user", "gpt": "assistant", "system": "system"}
            messages = [{"role": names[m["from"]], "content": m["value"]} for m in entry["conversations"]]
            compare_messages(messages, rows[entry["id"]], True)
            assert sum(m["value"].count("<image>") for m in entry["conversations"]) == len(entry["images"])
            check_images([PIL.Image.open(folder / name) for name in entry["images"]], len(entry["images"]))
            pictures += len(entry["images"])
    no_level_twice(splits, rows)
    return {"rows": sum(map(len, splits.values())), "pictures": pictures, "splits": {k: len(v) for k, v in splits.items()}}


FRAME_COLUMNS = {"timestamp": "float", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def check_lerobot_set(folder):
    """One LeRobot v3.0 dataset against the documented schema."""
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    stats = json.loads((folder / "meta/stats.json").read_text())
    tasks = pandas.read_parquet(folder / "meta/tasks.parquet")
    assert list(tasks.columns) == ["task_index"] and len(tasks) == info["total_tasks"] and isinstance(tasks.index[0], str)
    episodes = pandas.read_parquet(folder / "meta/episodes")
    assert list(episodes["episode_index"]) == list(range(info["total_episodes"]))
    paths = [folder / info["data_path"].format(chunk_index=c, file_index=f) for c, f in sorted(set(zip(episodes["data/chunk_index"], episodes["data/file_index"])))]
    table = pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in paths])
    assert table.num_rows == info["total_frames"] and set(table.column_names) == set(info["features"]) == set(stats)
    for name, kind in FRAME_COLUMNS.items():
        assert str(table.schema.field(name).type) == kind, (name, table.schema.field(name).type)
    assert table["index"].to_pylist() == list(range(table.num_rows))
    opened = datasets.Dataset.from_parquet([str(path) for path in paths])
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "image"]
    for at, episode in episodes.iterrows():
        first, last = episode["dataset_from_index"], episode["dataset_to_index"]
        assert last - first == episode["length"]
        part = table.slice(first, last - first)
        assert part["frame_index"].to_pylist() == list(range(episode["length"])) and set(part["episode_index"].to_pylist()) == {at}
        assert part["next.done"].to_pylist() == [False] * (episode["length"] - 1) + [True]
        for name in ("action", "next.reward"):
            column = numpy.array(part[name].to_pylist(), dtype=float)
            assert numpy.isclose(episode[f"stats/{name}/mean"][0], column.mean(), atol=1e-5) and episode[f"stats/{name}/count"][0] == len(column)
    for camera in cameras:
        height, width, channels = info["features"][camera]["shape"]
        sample = opened[0][camera]
        assert (sample.height, sample.width, channels) == (height, width, 3)
        assert numpy.array(stats[camera]["mean"]).shape == (3, 1, 1)
        pixels = numpy.stack([numpy.asarray(opened[n][camera], dtype=float) / 255 for n in range(episodes["length"][0])])
        assert numpy.allclose([channel[0][0] for channel in episodes[f"stats/{camera}/mean"][0]], pixels.mean(axis=(0, 1, 2)), atol=1e-6)
    return info, table, episodes


def check_lerobot(folder, rows):
    counts = {}
    lengths = sorted(row["steps"] for row in rows.values() if row["reason"] in ("done", "out_of_steps", "length_total"))
    seen = []
    for split in sorted(path for path in folder.iterdir() if path.is_dir()):
        info, table, episodes = check_lerobot_set(split)
        seen += list(episodes["length"])
        counts[split.name] = {"episodes": info["total_episodes"], "frames": info["total_frames"], "features": sorted(info["features"])}
    for length in seen:
        assert length in lengths, length
    return counts


def check_lerobot_itself(folder, rows):
    """LeRobot's own dataset over each split: actions, rewards, ends and pixels are the record's."""
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    lived = {}
    for row in rows.values():
        lived.setdefault(tuple(action for turn in row["lived"] for action in turn["executed"]), []).append(row)
    counts = {"lerobot": lerobot.__version__, "lerobot_episodes": 0, "lerobot_frames": 0, "lerobot_pictures": 0}
    for split in sorted(path for path in folder.iterdir() if path.is_dir()):
        made = LeRobotDataset(repo_id="errand/export", root=split)
        names = json.loads((split / "meta/info.json").read_text())["actions"]
        for episode in made.meta.episodes:
            first, last = episode["dataset_from_index"], episode["dataset_to_index"]
            steps = [made[at] for at in range(first, last)]
            alike = lived[tuple(names[int(step["action"])] for step in steps)]
            row = next(row for row in alike if agrees(steps, row))
            assert bool(steps[-1]["next.done"]) and bool(steps[-1]["next.success"]) == row["success"]
            paid = sum(float(step["next.reward"]) for step in steps)
            assert abs(paid - row["return"]) < 1e-4, (paid, row["id"])
            counts["lerobot_pictures"] += sum(len(kept_pictures(turn)) for turn in row["lived"])
            counts["lerobot_episodes"] += 1
            counts["lerobot_frames"] += len(steps)
        ahead = LeRobotDataset(repo_id="errand/export", root=split, episodes=[0], delta_timestamps={"action": [0.0, 1.0, 2.0]})
        assert ahead[0]["action"].shape[0] == 3 and len(ahead) == made.meta.episodes[0]["length"]
        counts["lerobot_keys"] = sorted(made[0])
    return counts


def agrees(steps, row):
    """Whether the frame at which each turn begins shows, to the pixel, what the turn showed."""
    at = 0
    for turn in row["lived"]:
        for camera, pixels in kept_pictures(turn):
            frame = steps[at][f"observation.images.{camera}"].numpy().transpose(1, 2, 0)
            if frame.shape != pixels.shape or not (numpy.rint(frame * 255) == pixels).all():
                return False
        at += len(turn["executed"])
    return True


SPOC_SENSORS = {  # name: (type, values a row; None: as many as it takes)
    "last_action_str": ("uint8", 200),
    "last_action_success": ("int64", 1),
    "last_action_is_random": ("int64", 1),
    "last_agent_location": ("float64", 6),
    "house_index": ("int64", 0),
    "templated_task_spec": ("uint8", None),
    "hypothetical_task_success": ("int64", 1),
    "minimum_l2_target_distance": ("float64", 1),
    "minimum_visible_target_alignment": ("float64", 1),
    "visible_target_4m_count": ("int64", 1),
    "an_object_is_in_hand": ("int64", 1),
    "relative_arm_location_metadata": ("float64", 4),
    "rooms_seen": ("int64", 0),
    "room_current_seen": ("bool", 0),
}
SPOC_ACTIONS = "m r l b end sub_done ls rs p zm zp yp ym wp wm yms zms zps yps d".split()


def spoc_text(row):
    return bytes(row).rstrip(b"\0").decode()


def check_spoc_episode(group, house):
    """One episode's sensors; gives actions, whether each worked, and the task."""
    rows = group["last_action_str"].shape[0]
    for name, (kind, width) in SPOC_SENSORS.items():
        sensor = group[name]
        shape = (rows,) if width == 0 else (rows, width if width else sensor.shape[1])
        assert str(sensor.dtype) == kind and sensor.shape == shape, (name, sensor.dtype, sensor.shape)
    actions = [spoc_text(row) for row in group["last_action_str"]]
    assert actions[0] == "" and all(action in SPOC_ACTIONS for action in actions[1:]), actions
    worked = group["last_action_success"][:, 0]
    assert worked[0] == -1 and set(worked[1:]) <= {0, 1}
    assert set(group["house_index"][:]) == {int(house)}
    for camera in ("nav", "manip"):
        for kind in ("task_relevant", "accurate"):
            boxes = group[f"{camera}_{kind}_object_bbox"]
            ids = json.loads(spoc_text(boxes["oids_as_bytes"][0]))
            senses = json.loads(spoc_text(boxes["synset_to_oids_as_bytes"][0]))
            assert sorted(sum(senses.values(), [])) == sorted(ids), (senses, ids)
            low, high, left, right = (boxes[side] for side in ("min_rows", "max_rows", "min_cols", "max_cols"))
            assert low.shape == (rows, len(ids)) and str(low.dtype) == "float32"
            hidden = low[:] == -1
            assert ((right[:] == -1) == hidden).all() and (high[:] >= low[:]).all() and (right[:] >= left[:]).all()
            assert (high[:] < 224).all() and (right[:] < 384).all()
    return actions[1:], worked[1:], json.loads(spoc_text(group["templated_task_spec"][0]))


def check_spoc(folder, rows):
    """SPOC's training format: h5py reads the sensors, av decodes the films."""
    import av
    import h5py

    codes = dict(zip(("move_ahead rotate_right rotate_left move_back done sub_done rotate_left_small rotate_right_small pickup move_arm_in "
                      "move_arm_out move_arm_up move_arm_down wrist_open wrist_close move_arm_down_small move_arm_in_small "
                      "move_arm_out_small move_arm_up_small dropoff").split(), SPOC_ACTIONS))
    lived = {}
    for row in rows.values():
        key = (json.loads(row["task"] or "{}").get("fetch", {}).get("instruction"), str(row["seed"]))
        executed = [codes[action] for turn in row["lived"] for action in turn["executed"]]
        lived.setdefault(key, []).append((executed, [int(w) for turn in row["lived"] for w in turn["worked"]], row["success"]))
    counts = {"episodes": 0, "actions": 0, "frames": 0, "loaded_by_spoc": 0, "video_bytes": 0, "sensor_bytes": 0}
    houses = {}
    for path in sorted(folder.glob("*/*/*/hdf5_sensors.hdf5")):
        house, split = path.parent.name, path.parent.parent.name
        assert len(house) == 6 and houses.setdefault(house, split) == split, "a house is in two splits"
        known = json.loads((path.parents[2] / f"house_id_to_sub_house_id_{split}.json").read_text())
        counts["sensor_bytes"] += path.stat().st_size
        with h5py.File(path) as file:
            assert sorted(file) == sorted(known[house])
            for name in file:
                actions, worked, task = check_spoc_episode(file[name], house)
                assert task["task_type"] == path.parents[2].name
                key = (task["natural_language_spec"], task["extras"]["errand"]["seed"])
                success = actions[-1] == "end" and bool(file[name]["hypothetical_task_success"][-1, 0])
                assert (actions, list(worked), success) in lived[key], (key, actions)
                for camera in ("navigation", "manipulation"):
                    film = path.parent / f"raw_{camera}_camera__{name}.mp4"
                    counts["video_bytes"] += film.stat().st_size
                    with av.open(str(film)) as video:
                        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
                    assert len(frames) == len(actions) + 1, (film, len(frames), len(actions))
                    assert max(frame.std() for frame in frames) > 5, f"{film} shows nothing"
                    counts["frames"] += len(frames)
                    counts["loaded_by_spoc"] += frames[0].shape == (224, 384, 3)
                counts["episodes"] += 1
                counts["actions"] += len(actions)
    assert counts["episodes"] > 0, "no episode"
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=["verl", "messages", "sharegpt", "lerobot", "spoc"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--store", type=pathlib.Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--verl", action="store_true", help="open it with verl itself too")
    parser.add_argument("--lerobot", action="store_true", help="open it with lerobot itself too")
    arguments = parser.parse_args()
    rows = recorded(arguments.store, arguments.run)
    if arguments.format == "sharegpt":
        result = check_sharegpt(arguments.folder, rows)
    elif arguments.format == "lerobot":
        result = check_lerobot(arguments.folder, rows)
    elif arguments.format == "spoc":
        result = check_spoc(arguments.folder, rows)
    else:
        result = check_talk(arguments.folder, rows, arguments.format)
    if arguments.verl:
        result |= check_verl_itself(arguments.folder, rows)
    if arguments.lerobot:
        result |= check_lerobot_itself(arguments.folder, rows)
    print(json.dumps({"format": arguments.format, "agrees": True, **result}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
