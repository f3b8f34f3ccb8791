"""Load a model in a separate process, answer the golden sample, measure latency and print JSON.

Run as an isolated file (python -IB probe.py MODEL GOLDEN). As in serving, only the model's own code and the
environment's packages can be imported.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

# Number of single lists; the first warms up.
_TIMED = 50


def main(model_folder: str, golden_path: str) -> dict[str, Any]:
    """Return answers in the sample's order; latency_ms is the 95th percentile of single lists."""
    import mlflow
    import numpy as np
    import pandas as pd

    with open(golden_path, encoding="utf-8") as file:
        golden = json.load(file)
    began = time.perf_counter()
    model = mlflow.pyfunc.load_model(model_folder)
    loaded = time.perf_counter() - began
    pairs = model.predict(pd.DataFrame({key: golden["pairs"][key] for key in ("user", "item")}))
    users = list(dict.fromkeys(golden["lists"]["user"]))
    lists = model.predict(pd.DataFrame({"user": users}))
    seconds = []
    for at in range(_TIMED):
        request = pd.DataFrame({"user": [users[at % len(users)]]})
        began = time.perf_counter()
        model.predict(request)
        seconds.append(time.perf_counter() - began)
    return {
        "made_of": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("mlflow", "numpy", "pandas")},
        },
        "surprise": "surprise" in sys.modules,
        "load_seconds": loaded,
        "latency_ms": 1000 * float(np.percentile(seconds, 95)),
        "pairs": pairs[["user", "item", "estimate"]].to_dict("list"),
        "lists": lists[["user", "item", "estimate"]].to_dict("list"),
    }


if __name__ == "__main__":
    # Output of libraries must not mix with the JSON.
    out, sys.stdout = sys.stdout, sys.stderr
    json.dump(main(*sys.argv[1:]), out)
