"""Loads a model in a process of its own, answers the golden sample and measures it; prints JSON.

Run as a file, isolated (python -IB probe.py MODEL GOLDEN): nothing of the code around it can be imported,
only what the model brings with it and the environment has, as where it is served.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

# Lists asked for one by one, after the first, which warms up.
_TIMED = 50


def main(model_folder: str, golden_path: str) -> dict[str, Any]:
    """Answers in the order of the sample; latency_ms is the 95th percentile of single lists."""
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
    # What libraries print must not end up in the JSON.
    out, sys.stdout = sys.stdout, sys.stderr
    json.dump(main(*sys.argv[1:]), out)
