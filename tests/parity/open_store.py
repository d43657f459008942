"""Opens a run's trajectory store with pyarrow, pandas and DuckDB and nothing of Errand, and prints what each counts, as JSON.

    python tests/parity/open_store.py runs/first/trajectories --run first

Exit code 1 if the readers disagree with each other, with the manifest, or with what the columns say of themselves.
Needs: pyarrow, pandas, duckdb.
"""

import argparse
import json
import pathlib
import sys

import duckdb
import pandas
import pyarrow
import pyarrow.parquet

PNG = b"\x89PNG\r\n\x1a\n"


def committed_files(store, run):
    """The manifest's file entries by kind, in the order of their commits."""
    entries = [json.loads(path.read_text()) for path in sorted((store / "manifest" / run).glob("*.json"))]
    numbers = [entry["number"] for entry in entries]
    if numbers != list(range(len(entries))):
        sys.exit(f"open_store: error: the manifest has gaps: {numbers}")
    files = [file for entry in entries for file in entry["files"]]
    return {kind: [file for file in files if file["kind"] == kind] for kind in ("trajectories", "turns")}


def count_with_pyarrow(paths):
    """Rows, tokens and pictures by Arrow's own types."""
    trajectories = pyarrow.concat_tables(pyarrow.parquet.ParquetFile(path).read() for path in paths["trajectories"])
    segments = trajectories["segments"].combine_chunks().flatten()
    tokens, logprobs = segments.field("tokens"), segments.field("logprobs")
    counts = {
        "trajectories": trajectories.num_rows,
        "episodes": len(set(trajectories["id"].to_pylist())),
        "successes": sum(trajectories["success"].to_pylist()),
        "turns_told": sum(trajectories["turns"].to_pylist()),
        "tokens": len(tokens.flatten()),
        "logprobs": len(logprobs.flatten()),
        "turns": 0,
        "pictures": 0,
    }
    for path in paths["turns"]:
        turns = pyarrow.parquet.ParquetFile(path).read()
        pictures = turns["pictures"].combine_chunks().flatten()
        if not all(data.startswith(PNG) for data in pictures.field("bytes").to_pylist()):
            sys.exit(f"open_store: error: a picture in {path} is no PNG")
        counts["turns"] += turns.num_rows
        counts["pictures"] += len(pictures)
    return counts


def count_with_pandas(paths):
    """The same from data frames."""
    trajectories = pandas.concat([pandas.read_parquet(path) for path in paths["trajectories"]])
    turns = [pandas.read_parquet(path) for path in paths["turns"]]
    segments = trajectories["segments"].explode().dropna()
    return {
        "trajectories": len(trajectories),
        "episodes": trajectories["id"].nunique(),
        "successes": int(trajectories["success"].sum()),
        "turns_told": int(trajectories["turns"].sum()),
        "tokens": int(sum(len(segment["tokens"]) for segment in segments)),
        "logprobs": int(sum(len(segment["logprobs"]) for segment in segments)),
        "turns": sum(len(frame) for frame in turns),
        "pictures": int(sum(frame["pictures"].map(len).sum() for frame in turns)),
    }


def count_with_duckdb(paths):
    """The same in SQL."""
    trajectories = "read_parquet(?, hive_partitioning = true)"
    numbers = duckdb.execute(
        f"select count(*), count(distinct id), sum(success::int)::bigint, sum(turns)::bigint from {trajectories}", [paths["trajectories"]]
    ).fetchone()
    lengths = duckdb.execute(
        f"select sum(len(s.tokens))::bigint, sum(len(s.logprobs))::bigint from (select unnest(segments) as s from {trajectories})",
        [paths["trajectories"]],
    ).fetchone()
    names = ["trajectories", "episodes", "successes", "turns_told", "tokens", "logprobs"]
    counts = {name: number or 0 for name, number in zip(names, numbers + lengths)}
    query = "select count(*), sum(len(pictures))::bigint from read_parquet(?, hive_partitioning = true)"
    turns, pictures = duckdb.execute(query, [paths["turns"]]).fetchone() if paths["turns"] else (0, 0)
    return counts | {"turns": turns, "pictures": pictures or 0}


def check_hugging_face(paths):
    """The column `pictures` says that it holds images, in the words that Hugging Face `datasets` reads."""
    for path in paths["turns"]:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        if features.get("pictures") != [{"_type": "Image"}]:
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=pathlib.Path, help="the store's folder")
    parser.add_argument("--run", required=True, help="the run's name")
    arguments = parser.parse_args()
    files = committed_files(arguments.store, arguments.run)
    if not files["trajectories"]:
        sys.exit(f"open_store: error: {arguments.store} holds nothing committed of run `{arguments.run}`")
    paths = {kind: [str(arguments.store / file["path"]) for file in of_kind] for kind, of_kind in files.items()}
    counts = {"pyarrow": count_with_pyarrow(paths), "pandas": count_with_pandas(paths), "duckdb": count_with_duckdb(paths)}
    told = {kind: sum(file["rows"] for file in of_kind) for kind, of_kind in files.items()}
    first = counts["pyarrow"]
    checks = {
        "readers_agree": all(count == first for count in counts.values()),
        "manifest_agrees": all(first[kind] == rows for kind, rows in told.items()),
        "turns_agree": first["turns"] == first["turns_told"],
        "episodes_once": first["episodes"] == first["trajectories"],
        "pictures_are_images": check_hugging_face(paths),
    }
    print(json.dumps({"counts": counts, "manifest": told, "checks": checks}, indent=1))
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    main()
