"""What users see and do in the two UIs, in a real browser."""

import csv
import json
import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import BrowserContext, FloatRect, Locator, Page, expect

from lance_pipeline.quality.split_checks import SPLIT_CHECKS
from lance_pipeline_tests.browser.attacks import ask
from lance_pipeline_tests.browser.conftest import PICTURES, save_picture
from lance_pipeline_tests.browser.launcher import Launcher, await_condition, free_port
from lance_pipeline_tests.browser.tunnel import tunnel_to
from lance_pipeline_tests.conftest import new_shell
from lance_pipeline_tests.small_project import CLASSES, IMAGES, LEAK

ASSETS = ("raw_images", "lance_train", "lance_val", "lance_test", "resnet34", "metrics_val", "metrics_test")
PAGES = {
    "raw_images": "Files per class",
    "lance_train": "Samples",
    "resnet34": "Learning curve",
    "metrics_test": "Most confident mistakes",
}
_RUN_SECONDS = 480


@pytest.fixture(scope="module")
def finished_run(ui: Launcher, context: BrowserContext) -> str:
    """The id of a run over the small project's graph, started as a user does."""
    page = context.new_page()
    _open_lineage(page, ui, "small", "flowers")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("link", name="View", exact=True).click()
    page.wait_for_url("**/runs/*")
    run_id = _run_shown(page)
    assert _status_at_end(ui, run_id) == "SUCCESS", page.inner_text("body")
    page.close()
    return run_id


def test_lineage_of_the_demo_shows_every_asset(page: Page, ui: Launcher):
    _open_lineage(page, ui, "lance_pipeline.definitions", "digits")
    if PICTURES:
        page.get_by_text("Hide navigation").click()
        expect(page.get_by_text("Materialized", exact=True)).to_have_count(len(ASSETS))
        page.mouse.move(0, 0)
        nodes = page.locator("foreignObject").all()
        save_picture("lineage.png", page.screenshot(clip=_around(nodes), animations="disabled"))


def test_materialize_all_runs_the_whole_graph(page: Page, ui: Launcher, finished_run: str):
    _open_lineage(page, ui, "small", "flowers")
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(len(ASSETS))
    page.goto(f"{ui.dagster}/runs/{finished_run}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()
    _show_epochs(page)
    if PICTURES:
        page.goto(f"{ui.dagster}/assets/digits/resnet34?view=events")
        page.get_by_text("Materialized in run").locator("..").get_by_role("link").first.click()
        page.wait_for_url("**/runs/*")
        # Drop the selection of one step that the link makes.
        page.goto(page.url.partition("?")[0])
        expect(page.get_by_text("Success", exact=True)).to_be_visible()
        last_line = _show_epochs(page)
        expect(page.locator("[data-tooltip='digits__metrics_test']")).to_be_visible()
        page.mouse.move(0, 0)
        box = last_line.bounding_box()
        assert box is not None
        clip: FloatRect = {"x": 0, "y": 0, "width": 1400, "height": box["y"] + box["height"] + 12}
        save_picture("run.png", page.screenshot(clip=clip, animations="disabled"))


def test_page_of_the_raw_images_names_the_classes(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/raw_images")
    expect(_metadata(page, "classes")).to_contain_text(", ".join(sorted(CLASSES)))


def test_page_of_a_lance_dataset_shows_rows_version_and_pictures(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/lance_train")
    row_count = page.get_by_text("Row count", exact=True).locator("..")
    expect(row_count).to_contain_text(str(IMAGES["train"] * len(CLASSES)))
    expect(_metadata(page, "lance_version")).to_contain_text("1")
    for key in ("classes", "samples"):
        _open_picture(page, key)
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
    if PICTURES:
        page.goto(f"{ui.dagster}/assets/digits/lance_train")
        last_column = page.locator("tr", has=page.get_by_text("path", exact=True)).bounding_box()
        assert last_column is not None
        page.set_viewport_size({"width": 1400, "height": round(last_column["y"] + last_column["height"]) + 1})
        page.mouse.move(0, 0)
        save_picture("asset_lance.png", page.screenshot(animations="disabled"))
        page.set_viewport_size({"width": 1400, "height": 900})


def test_page_of_a_lance_dataset_shows_what_its_checks_found(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/lance_test")
    page.get_by_role("tab", name="Checks").click()
    expect(page.get_by_text(f"Checks ({len(SPLIT_CHECKS)})", exact=True)).to_be_visible()
    for check in SPLIT_CHECKS:
        expect(_check(page, check.name)).to_contain_text(re.compile("Succeeded|Failed"))
    expect(_check(page, "exact_duplicates")).to_contain_text("Succeeded")
    leakage = _check(page, "leakage")
    expect(leakage).to_contain_text("Failed")
    expect(leakage.get_by_role("img", name="warning_outline")).to_be_visible()
    leakage.click()
    expect(_metadata(page, "images")).to_have_text("1")
    full_list = _metadata(page, "full_list")
    expect(full_list).to_have_text(re.compile("/reports/flowers/test_leakage.csv$"))
    with Path(full_list.inner_text().strip()).open(encoding="utf-8", newline="") as file:
        (pair,) = csv.DictReader(file)
    assert {pair["split"]: pair["path"], pair["other_split"]: pair["other_path"]} == LEAK
    if PICTURES:
        page.get_by_text("Plots", exact=True).click()
        # A dialog opens a third of the way down: in such a tall window, below the metadata.
        page.set_viewport_size({"width": 1400, "height": 2250})
    dialog = _open_picture(page, "examples")
    if PICTURES:
        box = dialog.bounding_box()
        assert box is not None
        page.mouse.move(0, 0)
        clip: FloatRect = {"x": 0, "y": 0, "width": 1400, "height": box["y"] + box["height"] + 12}
        save_picture("checks.png", page.screenshot(clip=clip, animations="disabled"))


def test_execute_on_a_check_leaves_asset_and_result(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/lance_test?view=checks")
    _check(page, "odd_sizes").click()
    before = _latest(ui)
    page.get_by_role("button", name=re.compile("Execute$")).click()
    await_condition(lambda: _latest(ui)["by"] != before["by"], 120, "it is asked")
    await_condition(lambda: _latest(ui)["status"] is not None, 120, "the check is evaluated again")
    after = _latest(ui)
    assert after["status"] == before["status"] == "SUCCEEDED"
    assert after["run"] == before["run"] == finished_run
    page.reload()
    expect(_check(page, "odd_sizes")).to_contain_text("Succeeded")
    _open_lineage(page, ui, "small", "flowers")
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(len(ASSETS))


def test_an_experiment_from_the_launchpad_changes_no_asset(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/locations/small/jobs/flowers_experiment/playground")
    editor = page.locator(".CodeMirror").first
    # The editor shows the available settings, so there is nothing to look up.
    expect(editor).to_contain_text("settings: {}")
    editor.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("ops: {flowers__experiment: {config: {settings: {recipe.epochs: 1, recipe.mixup: 0.2}}}}")
    page.get_by_role("button", name="Launch run").click()
    page.wait_for_url("**/runs/*")
    run_id = _run_shown(page)
    assert _status_at_end(ui, run_id) == "SUCCESS", page.inner_text("body")
    expect(page.get_by_text("recipe.epochs=1 recipe.mixup=0.2, seed 0")).to_be_visible()
    page.goto(f"{ui.dagster}/assets/flowers/resnet34?view=events")
    expect(page.get_by_text(finished_run[:8]).first).to_be_visible()
    expect(page.get_by_text(run_id[:8])).to_have_count(0)
    _open_lineage(page, ui, "small", "flowers")
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(len(ASSETS))


def test_a_terminated_training_says_last_what_was_saved(page: Page, ui: Launcher):
    _open_lineage(page, ui, "small", "slow")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("link", name="View", exact=True).click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text(re.compile("Epoch 2/2000: loss"))).to_be_visible()
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    run_id = _run_shown(page)
    assert _status_at_end(ui, run_id) == "CANCELED"
    last = re.compile(
        r"Stopped\. Saved after epoch \d+ of 2000(, batch \d of 2)?\. To resume: materialize the same assets again$"
    )
    page.goto(f"{ui.dagster}/runs/{run_id}")
    expect(page.get_by_text("Process for run exited")).to_be_visible()
    shown = page.inner_text("body")
    assert "Stack Trace" not in shown
    # Only the end of the process follows it.
    assert last.search(shown.partition("canceled.")[2].strip().splitlines()[0]), shown
    # The terminal that started the UI shows it too.
    await_condition(lambda: last.search(ui.output.strip()) is not None, 30, "the terminal says it")


def _latest(ui: Launcher) -> dict[str, str | None]:
    """The asset's latest run and the check's latest evaluation, as shown in the UI."""
    query = """{ assetsLatestInfo(assetKeys: [{path: ["flowers", "lance_test"]}]) { latestRun { runId } }
        assetNodes(assetKeys: [{path: ["flowers", "lance_test"]}]) { assetChecksOrError { ... on AssetChecks { checks {
            name executionForLatestMaterialization { status runId } } } } } }"""
    data = ask(ui.dagster, query)
    checks = data["assetNodes"][0]["assetChecksOrError"]["checks"]
    (found,) = (one["executionForLatestMaterialization"] for one in checks if one["name"] == "odd_sizes")
    run = data["assetsLatestInfo"][0]["latestRun"]["runId"]
    return {"run": run, "status": None if found["status"] == "IN_PROGRESS" else found["status"], "by": found["runId"]}


@pytest.mark.parametrize(("asset", "words"), PAGES.items())
def test_an_asset_leads_to_its_page(page: Page, ui: Launcher, finished_run: str, asset: str, words: str):
    page.goto(f"{ui.dagster}/assets/flowers/{asset}")
    with page.expect_popup() as opened:
        _metadata(page, "page").get_by_role("link").first.click()
    shown = opened.value
    assert shown.url == f"{ui.dagster}/reports/flowers/{asset}/{finished_run}.html"
    expect(shown.get_by_role("heading", name=words)).to_be_visible()
    pictures = shown.locator("img").all()
    assert pictures or asset == "raw_images"
    for one in pictures:
        assert one.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert shown.evaluate("origin") == "null"
    assert shown.evaluate("document.documentElement.scrollWidth") <= 1400
    if PICTURES and pictures:
        page.goto(f"{ui.dagster}/assets/digits/{asset}")
        address = _metadata(page, "page").get_by_role("link").first.get_attribute("href") or ""
        page.goto(f"{ui.dagster}{address}")
        save_picture(f"page_{asset}.png", page.screenshot(animations="disabled"))
    shown.get_by_role("link", name="all reports").click()
    shown.get_by_role("link", name=f"flowers/{asset}", exact=True).click()
    shown.get_by_role("link", name="asset", exact=True).click()
    expect(shown.get_by_text("Row count" if asset != "resnet34" else "val_accuracy").first).to_be_visible()


def test_internal_tags_are_not_shown(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/runs/{finished_run}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()
    page.goto(f"{ui.dagster}/runs")
    expect(page.get_by_role("link", name=finished_run[:8]).first).to_be_visible()
    assert "lance_pipeline.process" not in page.inner_text("body")
    found = ask(ui.dagster, f'{{ runOrError(runId: "{finished_run}") {{ ... on Run {{ tags {{ key }} }} }} }}')
    tags = found["runOrError"]["tags"]
    assert not [one["key"] for one in tags if one["key"].startswith("lance_pipeline")]


def test_page_of_the_metrics_shows_accuracy_and_confusion_matrix(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/metrics_test")
    expect(_metadata(page, "accuracy")).to_have_text(re.compile(r"(0\.\d+|1|0)$"))
    _open_picture(page, "confusion")
    if PICTURES:
        page.goto(f"{ui.dagster}/assets/digits/metrics_test")
        _save_dialog("asset_metrics.png", page, _open_picture(page, "confusion"))


def test_page_of_the_model_leads_to_its_mlflow_run(page: Page, ui: Launcher, finished_run: str):
    page.goto(f"{ui.dagster}/assets/flowers/resnet34")
    expect(_metadata(page, "device")).to_have_text(re.compile("cpu|cuda|mps"))
    with page.expect_popup() as opened:
        _metadata(page, "mlflow_run").get_by_role("link").first.click()
    run = opened.value
    assert run.url.startswith(ui.mlflow)
    for words in (re.compile(r"^flowers-\d{4} val [\d.]+ %$"), "train_loss", "val_accuracy", "batch_size"):
        expect(run.get_by_text(words, exact=True).first).to_be_visible()
    # Its note links back to the Dagster run.
    with run.expect_popup() as opened:
        run.get_by_role("link", name=finished_run[:8]).first.click()
    expect(opened.value.get_by_text("Success", exact=True)).to_be_visible()
    if PICTURES:
        page.goto(f"{ui.dagster}/assets/digits/resnet34")
        expect(_metadata(page, "val_accuracy")).to_be_visible()
        page.get_by_text("Metadata", exact=True).first.scroll_into_view_if_needed()
        page.mouse.move(0, 0)
        save_picture("asset_model.png", page.screenshot(animations="disabled"))
        address = _metadata(page, "mlflow_run").get_by_role("link").first.get_attribute("href") or ""
        run.goto(f"{ui.dagster}{address}")
        run.get_by_role("button", name="Close").click()
        run.get_by_role("tab", name="Model metrics").click()
        run.get_by_placeholder("Search metric charts").fill("^(train_loss|val_accuracy|val_loss)$")
        expect(run.locator(".js-plotly-plot")).to_have_count(3)
        for plot in run.locator(".js-plotly-plot").all():
            expect(plot.locator(".scatterlayer .point").first).to_be_visible()
        save_picture("mlflow.png", run.screenshot(clip={"x": 0, "y": 0, "width": 1400, "height": 616}))


def test_mlflow_shows_accuracies_and_the_datasets_columns(page: Page, ui: Launcher, finished_run: str):
    address = f"{ui.mlflow}/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=flowers"
    with urlopen(address) as answer:
        experiment = json.load(answer)["experiment"]["experiment_id"]
    page.goto(f"{ui.mlflow}/#/experiments/{experiment}/runs")
    expect(page.get_by_text(re.compile(r"^flowers-\d{4} val [\d.]+ %$")).first).to_be_visible()
    page.get_by_text("flowers_train", exact=False).first.click()
    for words in ("num rows", "perceptual_hash", "binary"):
        expect(page.get_by_text(words).first).to_be_visible()
    # Wide enough for all columns.
    page.set_viewport_size({"width": 3000, "height": 900})
    page.goto(f"{ui.mlflow}/#/experiments/{experiment}/models?workflowType=machine_learning")
    for words in ("flowers_val", "flowers_test", "accuracy"):
        expect(page.get_by_role("columnheader").filter(has_text=words).first).to_be_visible()


def test_a_stored_link_opens_wherever_the_ui_is(
    context: BrowserContext, ui: Launcher, finished_run: str, tmp_path: Path
):
    with tunnel_to(port := free_port()) as entrance:
        name = f"localhost:{entrance}"
        with Launcher(tmp_path, ui.data, ui.workspace, port, variables={"LANCE_PIPELINE_UI_HOSTS": name}) as moved:
            moved.await_ready()
            for origin in (moved.dagster, f"http://{name}"):
                page = context.new_page()
                page.goto(f"{origin}/assets/flowers/resnet34")
                with page.expect_popup() as opened:
                    _metadata(page, "mlflow_run").get_by_role("link").first.click()
                assert opened.value.url.startswith(f"{origin}/mlflow/")
                expect(opened.value.get_by_text("train_loss", exact=True).first).to_be_visible()


def test_the_terminal_names_the_ui_that_runs(page: Page, ui: Launcher, finished_run: str, tmp_path: Path):
    shell = new_shell(tmp_path, ui.data)
    summary = shell.run("lance_pipeline", "summary", "flowers")
    assert summary.returncode == 0, summary.stderr
    (address,) = re.findall(r"MLflow run +\w+ +(\S+)$", summary.stdout, re.MULTILINE)
    assert address.startswith(f"{ui.mlflow}/")
    page.goto(address)
    expect(page.get_by_text("train_loss", exact=True).first).to_be_visible()


def _run_shown(page: Page) -> str:
    """The id of the run whose page is open."""
    return re.split("[/?]", page.url.partition("/runs/")[2])[0]


def _status_at_end(ui: Launcher, run_id: str) -> str:
    """The status of a run once it has ended."""

    def status() -> str:
        return ask(ui.dagster, f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}')["runOrError"][
            "status"
        ]

    await_condition(lambda: status() in ("SUCCESS", "FAILURE", "CANCELED"), _RUN_SECONDS, "the run ends")
    return status()


def _open_lineage(page: Page, ui: Launcher, location: str, group: str) -> None:
    """Open a group's graph, and wait until it shows the state of each asset."""
    page.goto(f"{ui.dagster}/locations/{location}/asset-groups/{group}/lineage")
    for asset in ASSETS:
        expect(page.get_by_text(asset, exact=True)).to_be_visible()
    expect(page.get_by_text("Loading")).to_have_count(0)


def _show_epochs(page: Page) -> Locator:
    """Filter a run's log to the epochs; returns the last of them."""
    page.get_by_placeholder("Filter…").fill("images/s")
    last_line = page.get_by_text(re.compile(r"Epoch (\d+)/\1: loss"))
    expect(last_line).to_be_visible()
    return last_line


def _check(page: Page, name: str) -> Locator:
    """The entry of a check, with its result, in an asset's list of checks."""
    return page.locator("div", has=page.get_by_title(name, exact=True)).last


def _metadata(page: Page, key: str) -> Locator:
    """The value's cell in the metadata table of an asset or a check."""
    # On a check's page the key is not in an element of its own.
    keys = (f"> td:first-child{inner}:text-is('{key}')" for inner in ("", " span"))
    return page.locator(f"tr:has({', '.join(keys)}) > td:last-child")


def _open_picture(page: Page, key: str) -> Locator:
    """Open the dialog with a picture from the metadata; returns it once the picture has loaded."""
    _metadata(page, key).get_by_text("[Show Markdown]").click()
    dialog = page.get_by_role("dialog")
    image = dialog.locator("img[src^='data:image/']")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(dialog).to_be_visible()
    return dialog


def _save_dialog(name: str, page: Page, dialog: Locator) -> None:
    """Save a dialog's title and picture, without buttons and rounded corners."""
    box, image = dialog.bounding_box(), dialog.locator("img").bounding_box()
    assert box is not None
    assert image is not None
    edge = 5
    clip: FloatRect = {
        "x": box["x"] + edge,
        "y": box["y"] + edge,
        "width": box["width"] - 2 * edge,
        "height": image["y"] + image["height"] + 2 * edge - box["y"],
    }
    save_picture(name, page.screenshot(clip=clip, animations="disabled"))


def _around(locators: list[Locator], margin: float = 12) -> FloatRect:
    """The part of the page that contains all of these."""
    boxes = [box for box in (locator.bounding_box() for locator in locators) if box]
    left, top = (min(box[side] for box in boxes) - margin for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + margin
    bottom = max(box["y"] + box["height"] for box in boxes) + margin
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}
