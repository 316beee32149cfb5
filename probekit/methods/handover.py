"""Methods of `Trace` that hand it over to other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit import arguments
from probekit.extras import load_extra
from probekit.methods.naming import method_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

    from probekit.handover import RowBatches, RowItems, Watcher
    from probekit.trace import Patterns, Trace


@method_of("Trace")
def dataset(
    trace: Trace,
    sites: Patterns,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    rows: np.ndarray[Any, Any] | None = None,
    origin: bool = False,
    columns: Sequence[str] = (),
    drop_last: bool = False,
    buffer_rows: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> RowBatches:
    """Give the rows of sites as a torch `IterableDataset` of whole batches.

    A batch is a dict: by the name of each site, `"transformer.h.0.mlp.act/output"`, a tensor
    `[row, ...]` in the stored dtype (bfloat16 stays bfloat16), the same rows of every site. Use it
    as it is, or behind `DataLoader(dataset, batch_size=None, num_workers=...)`; `batch_size=None`
    because batches are ready. A `collate_fn` turns the dict into what a trainer wants:
    `operator.itemgetter(name)` into one site's tensor for a sparse autoencoder,
    `lambda batch: torch.stack([*batch.values()], 1)` into `[row, site, ...]` for a crosscoder.

    **Shuffling** reads blocks of neighbouring rows (128 KiB) in an order drawn anew for each epoch,
    and permutes the rows of many blocks among themselves. It is a full permutation where all rows
    fit into `buffer_rows`. The order depends on the seed and the epoch (`set_epoch`), not on the
    number of workers.

    **Workers and processes**: every row is given once an epoch over all workers of all processes.
    Workers take turns at batches, so that a DataLoader gives the same batches in the same order
    with any number of them. Processes share the rows out evenly and get the same number of
    batches. All batches are `batch_size` large but the last, or, to make their number the same for
    all processes, the last two; `drop_last` leaves out what does not fill a batch.

    **Going on in the middle of an epoch**: `state_dict()` and `load_state_dict()`, by hand or by
    torchdata's `StatefulDataLoader`. With the worker processes of a plain DataLoader only the
    caller knows how many batches were taken: `state_dict(batch=n)`.

    Args:
        trace: the trace.
        sites: globs of sites, or portable names; all must have the same rows.
        batch_size: rows in a batch.
        shuffle: whether rows come in a random order, or as they were recorded.
        seed: of the shuffling.
        rows: which rows to give: a mask of bools `[row]`, or their numbers; all when left out.
        origin: add to each batch where its rows come from, int64 `[row]` each: `"token"` (the row
            of the token in the trace), `"token_id"`, `"position"` and `"example"`; of sites with
            one row an example, `"example"` alone.
        columns: add values of the user's own, the ones of each row's example, by the column's
            name: a tensor `[row]` of int64, float64 (NaN where there is none) or bool, or a list
            of texts.
        drop_last: leave out the last batch where it is not full.
        buffer_rows: rows that are shuffled among themselves; by default as many as take 1 GiB, but
            16 batches at least. They are not held in the process: the system keeps what it read of
            the files, as far as it has memory. Only rows of a compressed trace are unpacked into
            memory, in each worker.
        rank: number of this process; torch.distributed's when left out, if it is initialised by
            now.
        world_size: how many processes there are.

    Raises:
        StoreError: if a site was not recorded, sites have different rows, or a number makes no
            sense; the message says what is there.

    Example:
        >>> rows = trace.dataset("resid_post", batch_size=4096, shuffle=True, origin=True)
        >>> for batch in DataLoader(rows, batch_size=None, num_workers=2):
        ...     loss = probe(batch["transformer.h.1/output"], labels[batch["example"]])
    """
    from probekit.handover import make_batches

    return make_batches(
        trace,
        sites,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        rows=rows,
        origin=origin,
        columns=columns,
        drop_last=drop_last,
        buffer_rows=buffer_rows,
        rank=rank,
        world_size=world_size,
    )


@method_of("Trace")
def map_dataset(
    trace: Trace,
    sites: Patterns,
    *,
    rows: np.ndarray[Any, Any] | None = None,
    origin: bool = False,
    columns: Sequence[str] = (),
) -> RowItems:
    """Give the rows of sites as a torch map-style `Dataset`: any row, in any order.

    `data[7]` is a dict as in `dataset`, of one row; `data[[7, 3]]` and `data[10:20]` of several.
    It works with every sampler of torch's; fast is one that gives a whole batch at a time:
    `DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), 4096, False))`.
    Rows are read where they lie, so on a disk a random order is slow: see `dataset`.

    Args:
        trace: the trace.
        sites: globs of sites, or portable names; all must have the same rows.
        rows: which rows there are: a mask of bools `[row]`, or their numbers; all when left out.
        origin: add where a row comes from, as in `dataset`.
        columns: add values of the user's own, as in `dataset`.

    Raises:
        StoreError: if a site was not recorded, or sites have different rows.
    """
    from probekit.handover import make_items

    return make_items(trace, sites, rows=rows, origin=origin, columns=columns)


@method_of("Trace")
def to_pandas(trace: Trace, table: str) -> pd.DataFrame:
    """Give a table of the trace as a pandas DataFrame.

    Args:
        trace: the trace.
        table: which one:

            - `"examples"`: one row an example: `id`, `text`, `first_token`, `n_tokens`,
              `n_generated`.
            - `"tokens"`: one row a token: `id`, `text`, `position`, `example`, `step` (0 for a
              text's own tokens, 1, 2, ... for generated ones). Row n of a site with all tokens is
              row n of this table.
            - `"execution"`: one row an event: `order` (which of the run's distinct orders),
              `event`, `module`, `entered` (True, or False where it was left), `depth`.
            - `"forwards"`: one row a forward pass: `order`, `phase`, `n_examples`, `n_tokens`,
              `seconds`.

    Raises:
        StoreError: if there is no such table, or the execution was not recorded.
        ProbekitError: if pandas is not installed.

    Example:
        >>> tokens = trace.to_pandas("tokens")
        >>> tokens[tokens.text == " is"].index      # rows of every site that has all tokens
    """
    load_extra("pandas", extra="analysis", purpose="to_pandas")
    from probekit.handover import frame_of

    return frame_of(trace, table)


@method_of("Trace")
def to_xarray(trace: Trace, sites: Patterns | None = None) -> xr.Dataset:
    """Give sites as one xarray Dataset, with named dimensions; rows are read when they are used.

    A variable has its site's name, `"transformer.h.0.mlp.act/output"`, and its attributes.
    bfloat16 reads as float32. Dimensions are the site's axes, in their order and by their names (of
    attention `token, head, key`, not the `[head, query, key]` of `site.example`); where a name
    would have two sizes, the size stands behind it (`head_2`, `head_12`).

    Coordinates of the dimension `token` are `token` itself (the row in the trace), `token_id`,
    `token_text`, `token_position`, `token_example`, and `token_step` where tokens were generated;
    of `example`: `example`, `example_id`, `example_text`, `example_n_tokens`. A site that was
    recorded at some positions has a dimension of its own, such as `token_last`, whose coordinate
    says which tokens its rows are: `ds.token_text.sel(token=ds.token_last)`.

    Args:
        trace: the trace.
        sites: globs of sites, or portable names; all sites when left out.

    Raises:
        StoreError: if a pattern names nothing that was recorded.
        ProbekitError: if xarray is not installed.

    Example:
        >>> ds = trace.to_xarray("resid_post")
        >>> ds["transformer.h.1/output"].groupby("token_example").mean()
    """
    load_extra("xarray", extra="analysis", purpose="to_xarray")
    from probekit.handover import dataset_of

    return dataset_of(trace, sites)


@method_of("Trace")
def to_safetensors(
    trace: Trace,
    path: str | Path,
    sites: Patterns | None = None,
    *,
    overwrite: bool = False,
    on_progress: Watcher | None = None,
) -> Path:
    """Write sites as tensors into a safetensors file, in the stored dtype, bfloat16 included.

    A tensor has its site's name. With them go `tokens/id`, `tokens/position`, `tokens/example`,
    `examples/n_tokens` and, for sites at some positions, `rows/<positions>`: the token that each
    row is. The file's metadata hold the provenance of the trace and, as JSON under `sites`, the
    attributes of every site, its axes among them. Texts do not go along: a tensor holds none.

    Rows are streamed: memory does not grow with their number.

    Args:
        trace: the trace.
        path: of the file.
        sites: globs of sites, or portable names; all sites when left out.
        overwrite: whether a file of this name may be replaced.
        on_progress: called after every few MiB.

    Returns:
        The path.

    Raises:
        StoreError: if a pattern names nothing that was recorded, or the file cannot be written.

    Example:
        >>> trace.to_safetensors("resid.safetensors", "resid_post")
        >>> safetensors.torch.load_file("resid.safetensors")["transformer.h.0/output"]
    """
    from probekit.handover import write_tensors

    path = arguments.path("path", path)
    write_tensors(trace, path, patterns=sites, overwrite=overwrite, watch=on_progress)
    return path


@method_of("Trace")
def merge(
    trace: Trace,
    path: str | Path,
    sites: Patterns | None = None,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    on_progress: Watcher | None = None,
) -> Trace:
    """Write the trace as one plain HDF5 file that needs no other: the same tree, without shards.

    Rows are streamed: memory does not grow with their number. They lie in one piece each, without
    compression, whatever the trace has. No number is changed.

    Args:
        trace: the trace.
        path: of the file.
        sites: globs of sites, or portable names; all sites when left out. All tables go along.
        dtype: `"float32"` widens floats of 16 bits, for readers that know none; as stored when left
            out. Nothing is narrowed: float64 stays.
        overwrite: whether a file of this name may be replaced.
        on_progress: called after every few MiB.

    Returns:
        The new file, opened.

    Raises:
        StoreError: if a pattern names nothing that was recorded, or the file cannot be written.
    """
    from probekit.handover import merge_trace
    from probekit.trace import open_trace

    path = arguments.path("path", path)
    merge_trace(
        trace,
        arguments.path("path", path),
        dtype=dtype,
        patterns=sites,
        overwrite=overwrite,
        watch=on_progress,
    )
    return open_trace(path)
