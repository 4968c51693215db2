"""OpenVINO's model rounded to int8 by NNCF: weights and activations, as its `quantize` chooses.

NNCF asks for versions of NumPy and others that the project does not, so it lives in a virtual
environment of its own, whose interpreter PYENGINE_NNCF names:

    python -m venv DIR && DIR/bin/pip install nncf openvino
    PYENGINE_NNCF=DIR/bin/python pyengine bench unet --weights int8 --peers

That interpreter runs this file as a script; OpenVINO runs its result as any other model.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: The environment's variable that names an interpreter which has NNCF.
VARIABLE = "PYENGINE_NNCF"


def quantize(
    notes: dict[str, Any], *, threads: int, converted: Path, inputs: dict[str, Any], to: Path
) -> Any:
    """Writes the model in `converted` to `to`, rounded, unless it is there; notes the seconds.

    inputs: what NNCF takes the activations' ranges from: those that are measured, in its favour.
    """
    import time

    import numpy as np

    from ...errors import UnavailableError

    begin = time.perf_counter()
    if not to.exists():
        python = os.environ.get(VARIABLE)
        if not python:
            raise UnavailableError(f"NNCF: {VARIABLE} names no interpreter that has it")
        with tempfile.TemporaryDirectory() as folder:
            arrays = Path(folder) / "inputs.npz"
            np.savez(arrays, *inputs.values())
            ended = subprocess.run(
                [python, __file__, converted, arrays, to],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        if ended.returncode:
            raise UnavailableError(f"NNCF: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
    notes["quantize_seconds"] = time.perf_counter() - begin
    return lambda: None


def _main(converted: str, arrays: str, to: str) -> None:
    import nncf  # type: ignore[import-not-found,unused-ignore]  # optional
    import numpy as np
    import openvino  # type: ignore[import-not-found,unused-ignore]  # optional

    model = openvino.Core().read_model(converted)
    with np.load(arrays) as stored:
        values = [stored[name] for name in stored.files]
    found = nncf.quantize(
        model, nncf.Dataset([values]), subset_size=1, model_type=nncf.ModelType.TRANSFORMER
    )
    part = Path(to).with_suffix(".part.xml")
    openvino.save_model(found, part, compress_to_fp16=False)
    part.with_suffix(".bin").rename(Path(to).with_suffix(".bin"))
    part.rename(to)


if __name__ == "__main__":
    _main(*sys.argv[1:])
