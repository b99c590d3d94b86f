"""Parquet tables of a LeRobot data set, from and to numpy. n rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidssl.errors import VidsslError


def rows_table(features: dict[str, dict[str, Any]], columns: dict[str, Any]) -> Any:
    """The Arrow table of frames: a column a feature that is no video.

    Args:
        features: of the data set, in order.
        columns: by name; arrays [n,...], of pictures a list of PNG bytes, of strings a list.
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    names = [name for name, feature in features.items() if feature["dtype"] != "video"]
    return pa.table({name: _column(features[name], columns[name]) for name in names})


def _column(feature: dict[str, Any], values: Any) -> Any:
    import pyarrow as pa

    if feature["dtype"] == "image":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.array([{"bytes": png, "path": None} for png in values], kind)
    if feature["dtype"] == "string":
        return pa.array(list(values), pa.string())
    array = np.ascontiguousarray(values, np.dtype(feature["dtype"]))
    kind = pa.from_numpy_dtype(array.dtype)
    if list(feature["shape"]) == [1]:  # stored as a plain number
        return pa.array(array.reshape(-1), kind)
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1), kind), array.shape[1])
    for _ in array.shape[1:]:
        kind = pa.list_(kind)
    return pa.array(array.tolist(), kind)


def column_array(table: Any, name: str, feature: dict[str, Any]) -> np.ndarray:
    """A column as numpy [n,...]: numbers in the feature's type and shape ([1] gives [n]); strings as objects.

    Raises:
        VidsslError: the column is missing, or does not hold what the feature says.
    """
    import pyarrow as pa

    if name not in table.column_names:
        raise VidsslError(f"no column {name!r} in the data; it has {', '.join(table.column_names)}")
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no rows
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if feature["dtype"] == "string":
        return np.array(column.to_pylist(), object)
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    while (
        pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type)
    ):
        column = column.flatten()
    shape = [] if list(feature["shape"]) == [1] else list(feature["shape"])
    try:
        return np.asarray(column.to_numpy(zero_copy_only=False), np.dtype(feature["dtype"])).reshape(len(table), *shape)
    except (ValueError, TypeError) as error:
        raise VidsslError(
            f"column {name!r} does not hold {feature['dtype']} {feature['shape']} a row ({error})"
        ) from None


def tasks_table(tasks: Sequence[str]) -> Any:
    """`meta/tasks.parquet`: pandas reads its column `task` as the index."""
    import pyarrow as pa

    described = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    names = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [names | {"metadata": {"encoding": "UTF-8"}}],
        "columns": [column | {"metadata": None} for column in described],
        "pandas_version": "2.2.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def write_table(path: Path, table: Any) -> None:
    """Write one table as Parquet; folders are made."""
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, compression="snappy")


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """A Parquet file as an Arrow table.

    Raises:
        VidsslError: there is none, or it can't be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if not path.exists():
        raise VidsslError(f"{path}: missing; copy the data set whole, or download it again")
    try:
        return parquet.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise VidsslError(f"{path}: damaged ({str(error).splitlines()[0]}); copy or download it again") from None
