"""Which rows an earlier run has drawn: the ids in the files that it wrote."""

import os
from typing import Any

from ..errors import CheckpointError
from .needs import need


def ids_in(folder: str | os.PathLike[str]) -> frozenset[Any]:
    """The `id` of every row in the Parquet files of a folder, or none where it does not exist.

    A path or any address that pyarrow opens. Raises CheckpointError for a file that cannot be read
    whole, as one is that was being written when its run ended: no row of it counts as done, and it
    has to go before the next run writes beside it.
    """
    fs, parquet = need("pyarrow.fs"), need("pyarrow.parquet")
    where = os.fspath(folder)
    if "://" in where:
        filesystem, path = fs.FileSystem.from_uri(where)
    else:
        filesystem, path = fs.LocalFileSystem(), os.path.abspath(where)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    found: set[Any] = set()
    for info in filesystem.get_file_info(selector):
        if info.type != fs.FileType.File or info.extension != "parquet":
            continue
        try:
            with filesystem.open_input_file(info.path) as file:
                table = parquet.read_table(file, columns=["id"])
            found.update(table.column("id").to_pylist())
        except (need("pyarrow").ArrowInvalid, KeyError, OSError) as e:
            raise CheckpointError(
                f"resume: expected whole Parquet files with a column id, given {info.base_name},"
                f" which is not: delete it, and its rows are drawn again"
            ) from e
    return frozenset(found)
