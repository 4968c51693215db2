"""gunicorn: several processes, each with an engine; they share the pages of the weights.

gunicorn -c examples/gunicorn.conf.py gunicorn_app:app

For a machine whose cores one engine does not fill. A queue, jobs that are kept and rates are each
process's own; one engine with all cores (`pyengine serve`) serves most machines better.
"""

import os
from pathlib import Path
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WORKERS", "2"))
worker_class = "uvicorn_worker.UvicornWorker"  # pip install gunicorn uvicorn-worker
pythonpath = str(Path(__file__).parent)
preload_app = True  # the model is loaded once, before the fork
graceful_timeout = 20
timeout = 120


def post_fork(server: Any, worker: Any) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
