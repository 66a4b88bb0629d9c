"""Score the predictions of an export on a Dask cluster of two processes, one of which is killed half-way.

    python rescore_with_dask.py out/predictions results/

A program of its own, since the processes of the cluster import it again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import bdlab


def slowly(frame: Any, rescore: Any) -> Any:
    time.sleep(0.1)
    return rescore(frame)


def main(folder: str, results: str) -> None:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    rescore = bdlab.rescorer("")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        frame = dd.read_parquet(folder, columns=rescore.columns)
        scored = frame.map_partitions(slowly, rescore, meta=rescore.schema.empty_table().to_pandas())
        writing = client.compute(scored.to_parquet(results, compute=False, schema=rescore.schema, write_index=False))
        while len(written := list(Path(results).glob("*.parquet"))) < 3:
            time.sleep(0.05)
        killed = next(iter(client.run(os.getpid).values()))
        os.kill(killed, signal.SIGKILL)
        writing.result()
        files = len(list(Path(results).glob("*.parquet")))
        told = {
            "killed": killed,
            "left": list(client.run(os.getpid).values()),
            "written before": len(written),
            "files": files,
        }
        sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
