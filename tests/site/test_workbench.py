"""The workbench as two people use it: a real Chromium, through the tunnel, on the server of `make up`.

Runs behind test_up.py in the same session; alone it makes the server itself. The tests run in the order written.
Screenshots are left in .cache/screenshots.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from conftest import ROOT, Checkout, Tunnel, get, tunnel
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

SCREENSHOTS = ROOT / ".cache/screenshots"
PEOPLE = """
people:
  - {name: deploy, role: operator, keys: "{{ operator_keys }}"}
  - {name: analyst, role: analyst, keys: "{{ operator_keys }}"}
  - {name: ana, role: analyst, keys: "{{ operator_keys }}"}
  - {name: ben, role: analyst, keys: "{{ operator_keys }}"}
  - {name: tina, role: tunnel, keys: "{{ operator_keys }}", ports: [5000]}
jupyter_people:
  - {name: ana, port: 8889}
"""
# beyond the minute after which a document without a browser is forgotten, unless that is turned off
LINES = 75
LONG = f"import time\nfor i in range({LINES}):\n    print('line', i, flush=True)\n    time.sleep(1)\nprint('the end')"


@pytest.fixture(scope="module")
def checkout(shared_checkout: Checkout) -> Iterator[Checkout]:
    if not (shared_checkout.folder / ".local/id_ed25519").exists():
        shared_checkout.run("make", "up")
    mine = shared_checkout.folder / "inventory/local/group_vars/all/zz-mine.yml"
    yield shared_checkout
    mine.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    image = subprocess.check_output([ROOT / "tests/chromium.sh"], text=True).strip()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    name = f"chromium-{os.getpid()}"
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", f"--remote-debugging-port={port}", "about:blank"]
    container = ["docker", "run", "--rm", "--detach", "--name", name, "--network", "host"]
    subprocess.run([*container, "--entrypoint", "chromium-headless-shell", image, *arguments], check=True)
    try:
        answers(f"http://127.0.0.1:{port}/json/version", 30)
        with sync_playwright() as playwright:
            yield playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=True, stdout=subprocess.DEVNULL)


def answers(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            get(url)
            return
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.3)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with new_page(chromium) as opened:
        yield opened


@contextmanager
def new_page(chromium: Browser) -> Iterator[Page]:
    """A page of a separate browser: no cookies, no storage."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    try:
        yield opened
    finally:
        # for the report of a failure
        with suppress(Error):
            print(opened.inner_text("body", timeout=5_000))
        context.close()


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def open_notebook(page: Page, link: str, path: str) -> None:
    # without the notebooks that other tests had open
    page.goto(link.replace("/lab?", f"/lab/tree/{path}?reset&"))
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
    # The page is connected to the kernel; what is run before that is dropped. The notebook's own indicator says idle
    # from the beginning.
    expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\| (Idle|Busy)"), timeout=60_000)


def cell(page: Page, number: int) -> Locator:
    return page.locator(".jp-Notebook .jp-CodeCell").nth(number)


def run_cell(page: Page, number: int) -> None:
    cell(page, number).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")


@pytest.fixture(scope="module")
def write_notebook(checkout: Checkout, settings: dict[str, Any]) -> Callable[..., None]:
    def write(path: str, *sources: str) -> None:
        cells: list[dict[str, Any]] = [
            {
                "cell_type": "code",
                "id": f"c{at}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": text,
            }
            for at, text in enumerate(sources)
        ]
        kernel = {"name": "recommender", "display_name": "Recommender", "language": "python"}
        notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        command = ["docker", "exec", "-i", "-u", "analyst", settings["cloud_server_name"]]
        command += ["sh", "-c", f"cat > /home/analyst/notebooks/{path}"]
        subprocess.run(command, input=json.dumps(notebook), text=True, check=True)

    return write


def test_a_wrong_token_shows_the_token_page_and_the_right_one_lets_in(checkout: Checkout, page: Page) -> None:
    with tunnel(checkout) as links:
        base = links["jupyter"].partition("/lab")[0]
        page.goto(f"{base}/lab?token=wrong")
        expect(page.get_by_text("Password or token:")).to_be_visible()
        page.locator("#password_input").fill(links["jupyter"].partition("token=")[2])
        page.locator("#login_submit").click()
        expect(page.locator("#jp-top-panel")).to_be_visible(timeout=60_000)
        expect(page).to_have_title(re.compile("dev on local-server$"))
        label = "getComputedStyle(document.querySelector('#jp-top-panel'), '::after')"
        assert page.evaluate(f"{label}.content") == '"dev on local-server"'
        # nothing of JupyterLab's own lies over it
        others = "[...document.querySelector('#jp-top-panel').children].map(e => +getComputedStyle(e).zIndex || 0)"
        assert page.evaluate(f"+{label}.zIndex > Math.max(...{others})")


def test_a_notebook_runs_on_the_recommenders_kernel(checkout: Checkout, page: Page) -> None:
    with tunnel(checkout) as links:
        open_notebook(page, links["jupyter"], "examples/2-training.ipynb")
        expect(page.locator(".jp-KernelName").first).to_contain_text("Recommender (dev)")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        expect(cells.last.locator(".jp-InputPrompt")).to_have_text(f"[{cells.count()}]:", timeout=300_000)
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        expect(cells.last.locator("img")).to_be_visible()
        page.locator(".jp-RenderedMarkdown p", has_text="Where do the errors").scroll_into_view_if_needed()
        screenshot(page, "jupyterlab")


def test_output_survives_a_closed_browser_and_a_cut_tunnel(
    checkout: Checkout, chromium: Browser, write_notebook: Callable[..., None]
) -> None:
    write_notebook("long.ipynb", LONG)
    with tunnel(checkout) as links, new_page(chromium) as page:
        open_notebook(page, links["jupyter"], "long.ipynb")
        run_cell(page, 0)
        expect(cell(page, 0)).to_contain_text("line 2")
    # meanwhile two people are added, one of them with a Jupyter of her own: that ends nobody's work
    mine = checkout.folder / "inventory/local/group_vars/all/zz-mine.yml"
    mine.write_text(PEOPLE)
    checkout.run(".venv/bin/ansible-playbook", "site.yml", "--tags", "secure,workbench")
    with tunnel(checkout) as links, new_page(chromium) as page:
        open_notebook(page, links["jupyter"], "long.ipynb")
        expect(cell(page, 0)).to_contain_text("the end", timeout=(LINES + 30) * 1000)
        shown = cell(page, 0).locator(".jp-OutputArea-output").inner_text()
        assert re.findall(r"line (\d+)", shown) == [str(number) for number in range(LINES)]
        expect(cell(page, 0).locator(".jp-InputPrompt")).to_have_text("[1]:")


def test_a_kernel_that_dies_ends_its_cell_and_runs_the_next(
    checkout: Checkout, page: Page, write_notebook: Callable[..., None]
) -> None:
    write_notebook("dies.ipynb", "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)", "6 * 7")
    with tunnel(checkout) as links:
        open_notebook(page, links["jupyter"], "dies.ipynb")
        run_cell(page, 0)
        expect(cell(page, 0)).to_contain_text("KernelRestarted: the kernel restarted before this cell had ended")
        expect(cell(page, 0)).to_contain_text("last words")
        page.locator(".jp-Dialog button.jp-mod-accept").click()
        run_cell(page, 1)
        expect(cell(page, 1).locator(".jp-OutputArea-output")).to_have_text("42")


def test_two_people_work_on_one_notebook(
    checkout: Checkout, chromium: Browser, write_notebook: Callable[..., None]
) -> None:
    write_notebook("shared.ipynb", "x = 20", "")
    # one after the other: two that start at once would find the same ports free
    with (
        tunnel(checkout) as links,
        tunnel(checkout, "USER=ana") as hers,
        new_page(chromium) as one,
        new_page(chromium) as other,
    ):
        assert "token" not in hers["jupyter of analyst"]
        # the owner's link from the button Share, used through ana's tunnel
        there = re.search(r"localhost:\d+", hers["jupyter of analyst"])
        assert there
        open_notebook(one, links["jupyter"], "shared.ipynb")
        open_notebook(other, re.sub(r"localhost:\d+", there[0], links["jupyter"]), "shared.ipynb")
        run_cell(one, 0)
        cell(other, 1).locator(".cm-content").click()
        other.keyboard.type("x + 1")
        expect(cell(one, 1).locator(".cm-content")).to_have_text("x + 1")
        run_cell(other, 1)
        for page in (one, other):
            expect(cell(page, 1).locator(".jp-OutputArea-output")).to_have_text("21")
        # in one browser, no server gets the session of another: cookies know no ports
        assert one.context.cookies(links["jupyter"])
        beside = one.context.new_page()
        for name in ("jupyter of ana", "mlflow"):
            answer = beside.goto(hers[name].partition("/lab")[0])
            assert answer and "username-" not in answer.request.all_headers().get("cookie", ""), name


def test_the_tunnel_of_each_person(checkout: Checkout) -> None:
    with tunnel(checkout, "USER=ana") as links:
        assert "JupyterLab" in get(links["jupyter of ana"])
        assert "token" not in links["jupyter of analyst"]
        assert "MLflow" in get(links["mlflow"])
    ben = Tunnel(checkout, "USER=ben")
    assert "ask ana for the link" in (ben.links() and ben.output)
    ben.close()
    tina = Tunnel(checkout, "USER=tina")
    assert list(tina.links()) == ["mlflow"]
    assert "MLflow" in get(tina.links()["mlflow"])
    tina.close()
    assert "nobody is not among the people" in checkout.run("make", "tunnel", "USER=nobody", code=2)


def test_the_tunnel_connects_again_and_leaves_nothing(checkout: Checkout) -> None:
    with ExitStack() as stack:
        # another tunnel of this machine may hold it already: as well
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 8888)))
        opened = Tunnel(checkout)
        links = opened.links()
    assert "port 8888 of this machine is taken; using" in opened.output
    assert "localhost:8888" not in links["jupyter of analyst"]
    (before,) = opened.children()
    os.kill(before, 9)
    opened.wait_for("the connection was lost")
    opened.wait_for("connected again")
    assert "JupyterLab" in get(links["jupyter of analyst"])
    (after,) = opened.children()
    opened.close()
    assert "tunnel closed" in opened.output
    assert after != before
    assert subprocess.run(["pgrep", "-g", str(opened.process.pid)]).returncode == 1
    for link in links.values():
        with pytest.raises(OSError):
            get(link)


def test_any_tool_of_ssh_can_use_the_configuration(checkout: Checkout) -> None:
    file = checkout.folder / ".local/ssh_config"
    file.write_text(checkout.run("make", "-s", "ssh-config", "USER=ana"))
    found = subprocess.check_output(["ssh", "-F", file, "local-server", "id", "-un"], cwd="/", text=True)
    assert found.strip() == "ana"
    # nothing listens there: let through by sshd for an editor, refused by the kernel
    for there, said in [("127.0.0.1:9", "Connection refused"), ("192.0.2.1:9", "administratively prohibited")]:
        forward = ["ssh", "-F", str(file), "-W", there, "local-server"]
        assert said in subprocess.run(forward, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


def test_the_notebooks_run_as_deployed_with_postgresql_and_spark(settings: dict[str, Any], ssh: Any) -> None:
    prepare = """
        set -eu
        apt-get install -qy --no-install-recommends postgresql default-jre-headless >/dev/null
        systemctl start postgresql
        runuser -u postgres -- createuser analyst
        runuser -u postgres -- createdb --owner analyst ratings
        export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/uv
        python=/opt/conda/envs/recommender/bin/python
        $python -m uv pip install --quiet --python $python --target /opt/spark --require-hashes -r /opt/spark.txt
    """
    lock = pathlib.Path(__file__).with_name("spark.txt")
    subprocess.run(
        ["docker", "cp", lock, f"{settings['cloud_server_name']}:/opt/"], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["docker", "exec", settings["cloud_server_name"], "sh", "-c", prepare], check=True)
    run = """
        set -eu
        mkdir -p ~/.local/share/jupyter/kernels ~/executed
        # what pip install --user left would come before the environment's own packages
        beside=$(/opt/conda/envs/recommender/bin/python -c 'import site; print(site.getusersitepackages())')
        trap 'rm -r "$beside"' EXIT
        mkdir -p "$beside"
        echo 'raise ImportError("of ~/.local")' | tee "$beside/numpy.py" > "$beside/mlflow.py"
        cp -r /usr/local/share/jupyter/kernels/recommender ~/.local/share/jupyter/kernels/
        sed -i 's|"PYTHONPATH": "|&/opt/spark:|' ~/.local/share/jupyter/kernels/recommender/kernel.json
        export RATINGS_DATABASE_URL='postgresql+psycopg:///ratings?host=/var/run/postgresql'
        cd ~/notebooks/examples
        # the second one has run in the browser
        PATH=/opt/jupyter-screen/current/bin:$PATH
        jupyter nbconvert --to notebook --execute --output-dir ~/executed [13]-*.ipynb >&2
        rm -r ~/.local/share/jupyter/kernels/recommender
        make -s -C /srv/recommender/current recommend USER_ID=1 >&2
        cat ~/executed/1-data.ipynb
    """
    executed = ssh("analyst", "bash -s", stdin=run)
    assert executed.returncode == 0, executed.stdout + executed.stderr
    text = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for source in json.loads(executed.stdout)["cells"]
        for output in source.get("outputs", [])
    ]
    assert "database: postgresql\n" in text
    assert "True" in text
    assert any("Spark: the same ratings: True" in printed for printed in text), text


def test_the_page_of_the_served_model(checkout: Checkout, chromium: Browser) -> None:
    with tunnel(checkout) as links, new_page(chromium) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(links["model of dev"])
        expect(page.locator("#served")).to_contain_text("dev.movie-recommender version")
        # by keyboard alone
        page.get_by_label("User id, as in the ratings").press_sequentially("1")
        page.keyboard.press("Enter")
        expect(page.locator("#list > li")).to_have_count(10)
        expect(page.locator("#about")).to_contain_text("For user 1, by version")
        expect(page.locator("#list .why").first).to_contain_text("because of")
        page.get_by_label("Or rate a few yourself").fill("matrix")
        page.keyboard.press("Enter")
        page.get_by_label("Your rating of Matrix, The (1999)").select_option("5")
        expect(page.locator("#about")).to_contain_text("For you, by version")
        expect(page.locator("#list .why").first).to_contain_text("because of Matrix, The (1999)")
        expect(page.locator("#list .line").filter(has_text="Matrix, The (1999)")).to_have_count(0)
        page.get_by_role("button", name="What is similar to").first.click()
        expect(page.locator("#similar > li")).to_have_count(10)
        page.get_by_role("button", name="Close").click()
        page.get_by_label("User id, as in the ratings").fill("nobody at all")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("Nothing is known of user nobody at all")
        page.get_by_label("User id, as in the ratings").fill("1")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("For user 1, by version")
        screenshot(page, "served-model")
        page.set_viewport_size({"width": 360, "height": 740})
        page.get_by_role("button", name="Show the list").click()
        expect(page.get_by_role("heading", name="The list")).to_be_in_viewport()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
        screenshot(page, "served-model-phone")
        page.goto(f"{links['model of dev']}/docs")
        expect(page.get_by_text("/v1/recommend", exact=True).first).to_be_visible()
        assert {url.split("/")[2] for url in asked if not url.startswith("data:")} == {
            links["model of dev"].split("/")[2]
        }


def test_mlflow_shows_the_run_and_the_registry(checkout: Checkout, page: Page) -> None:
    with tunnel(checkout) as links:
        name = "dev.movie-recommender"
        url = f"{links['mlflow']}/api/2.0/mlflow/registered-models/alias?name={name}&alias=champion"
        version = get(url)["model_version"]
        run = get(f"{links['mlflow']}/api/2.0/mlflow/runs/get?run_id={version['run_id']}")["run"]["info"]
        page.goto(f"{links['mlflow']}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}/artifacts")
        page.get_by_text("plots", exact=True).click()
        page.get_by_text("evaluation.png").first.click()
        # MLflow's page has further pictures, and a second copy of this one that is hidden
        picture = page.get_by_alt_text("plots/evaluation.png")
        expect(picture).to_be_visible(timeout=60_000)
        assert picture.evaluate("picture => picture.naturalWidth") > 0
        page.wait_for_timeout(1500)
        screenshot(page, "mlflow-run")
        page.goto(f"{links['mlflow']}/#/models/{name}")
        expect(page.get_by_text("champion").first).to_be_visible()
        page.wait_for_timeout(1500)
        screenshot(page, "mlflow-registry")
