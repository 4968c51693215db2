"""A real Ray on this machine, of few processes and little memory."""

import os

import pytest

#: Of the driver and its workers: no report home, torch's threads as tests have them, and patience
#: where other tests keep the machine busy.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "RAY_raylet_start_wait_time_s": "180",
}


@pytest.fixture(scope="session")
def cluster():
    """ray, started with two CPUs; what it runs finds pyengine where this process does."""
    ray = pytest.importorskip("ray")
    os.environ.update(ENVIRONMENT)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()
