"""Feast's SDK on its SQLite store: materialise Parquet files, read the features of one and of many entities."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
from feast.types import Float64, Int32, Int64, String
from passes import median_seconds

_TYPES = {"float64": Float64, "int64": Int64, "int32": Int32, "string": String}
_BEGIN, _END = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def opened(home: Path, views: list[dict]) -> FeatureStore:
    """Return a new store that knows the views."""
    home.mkdir(parents=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(home / "registry.db"),
            online_store=SqliteOnlineStoreConfig(path=str(home / "online.db")),
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    keys = {key for view in views for key in view["keys"]}
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in sorted(keys)}
    declared = [
        FeatureView(
            name=view["name"],
            entities=[entities[key] for key in view["keys"]],
            ttl=timedelta(0),
            schema=[
                *(Field(name=key, dtype=String) for key in view["keys"]),
                *(Field(name=name, dtype=_TYPES[kind]) for name, kind in view["fields"]),
            ],
            source=FileSource(
                path=view["path"], timestamp_field="event_ts", created_timestamp_column="created_ts"
            ),
        )
        for view in views
    ]
    store.apply([*entities.values(), *declared])
    return store


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    home = Path(job["home"])
    many = opened(home / "many", [job["many"]])
    begin = time.perf_counter()
    many.materialize(_BEGIN, _END)
    found = {"materialise": time.perf_counter() - begin}

    store = opened(home / "all", job["views"])
    store.materialize(_BEGIN, _END)
    features = [f"{view['name']}:{name}" for view in job["views"] for name, _ in view["fields"]]

    def ask(rows: list[dict]) -> dict:
        return store.get_online_features(features=features, entity_rows=rows).to_dict()

    keys = [{name: row[name] for name in job["keys"]} for row in job["requests"]]
    found["one"] = median_seconds(lambda: ask(keys[:1]), 300)
    found["hundred"] = median_seconds(lambda: ask(keys), 30)
    found["answers"] = ask(keys)
    Path(job["report"]).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
