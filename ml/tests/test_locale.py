"""Under another language, encoding and time zone: numbers, titles and dates are the same."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from tests.conftest import ROOT

# An encoding without umlauts, as ISO-8859-1 is one without Cyrillic, and a zone off by 5:45 hours.
HOSTILE = {
    "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu",
    "LC_NUMERIC": "de_DE.UTF-8", "PYTHONWARNDEFAULTENCODING": "1",
}  # fmt: skip
TITLE = "Am\u00e9lie \u0416 (2001)"
SCRIPT = """
import sys
from recommender.cli.main import main
for line in open(sys.argv[1], encoding="utf-8").read().splitlines():
    print(">>", flush=True)
    code = main(line.split())
    assert code == 0, (code, line)
"""


def test_titles_numbers_and_dates(folder: Path, conf: Path, store: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "ratings.csv").write_text((folder / "ratings.csv").read_text())
    movies = re.sub(r'"Film, The \d+ \(1999\)"', TITLE, (folder / "movies.csv").read_text())
    (data / "movies.csv").write_text(movies, encoding="utf-8")
    report, lines = tmp_path / "report.json", tmp_path / "lines"
    ask = f"recommend --user 1 -k 1 --tracking-uri {store}"
    lines.write_text(
        f"train --config {conf} --data {data} --tracking-uri {store} --report {report}\n"
        f"{ask}\n{ask} --json\n{ask} --output -\n"
        f"models abroad --tracking-uri {store}\n"
    )
    environment = {
        **os.environ,
        **HOSTILE,
        "PYTHONPATH": str(ROOT / "src"),
        "RECOMMENDER_ENVIRONMENT": "abroad",
    }
    # a file: pyspark, which MLflow imports, takes what python -c runs for a doctest of its own
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode("ascii", "replace")
    assert done.returncode == 0, said
    # every file is opened with the encoding that it is written in
    assert not re.search(r"src/recommender/\S+: EncodingWarning", said), said
    trained, person, as_json, as_csv, table = done.stdout.split(b">>\n")[1:]
    picked = json.loads(report.read_text(encoding="utf-8"))["recommendations"]["items"][0]
    assert picked["title"] == TITLE
    assert re.search(rb"RMSE \d\.\d{4}, MAE 0\.\d{4}", trained)
    assert person.decode("ascii") == f"   1  {picked['estimate']:.2f}  Am?lie ? (2001)\n"
    assert json.loads(as_json.decode("utf-8"))[0]["title"] == TITLE
    assert f",{TITLE},{picked['estimate']}" in as_csv.decode("utf-8")
    row = re.search(rb"1 +champion +(\d{4}-\d\d-\d\d \d\d:\d\d) +SVD +\d\.\d{4}", table)
    assert row, table
    registered = datetime.strptime(f"{row[1].decode()}+0000", "%Y-%m-%d %H:%M%z")
    assert abs(registered.timestamp() - report.stat().st_mtime) < 120
