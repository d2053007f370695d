"""The report shows what lies in the run folders, and nothing else."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import pytest

from ffmodels.errors import RunError
from ffmodels.files import read_json
from fftrain import write_report


class Page(HTMLParser):
    """The tables of a page as rows of cells, and what it loads from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.loads, self.pictures, self.cell = [], [], 0, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.pictures += tag == "svg"
        if tag in ("script", "img", "link", "iframe"):
            self.loads.append(attributes.get("src") or attributes.get("href") or tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell)
            self.cell = None


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(trained, root)
    prediction = {"model": "m.onnx", "predictions": [{"file": "<b>.png", "top": [{"class": "3", "probability": 0.5}]}]}
    (root / "prediction.json").write_text(json.dumps(prediction))
    write_report(root)
    return root, (root / "report.html").read_text()


def test_every_figure_is_the_run_folders(page):
    root, text = page
    tables = Page(text).tables
    found = {tuple(row[:5]): row[5:] for row in tables[1][1:]}
    for method in ("ff", "bp"):
        [(name, result)] = read_json(root / method / "results.json")["probes"].items()
        for row in result["rows"]:
            cells = found[method, "digits", name.removeprefix("digits-"), row["source"], row["layers"]]
            assert cells == [f"{100 * row['validation']:.1f}", f"{100 * row['test']:.1f}"]
    for row in tables[0][1:]:
        pretext = read_json(root / row[0] / "results.json")["pretext"]["validation"]["accuracy"]
        assert row[4] == f"{100 * pretext:.1f}"


def test_the_page_is_self_contained_and_escapes_what_it_shows(page):
    _, text = page
    parsed = Page(text)
    assert parsed.loads == []
    assert parsed.pictures >= 4
    assert "<b>.png" not in text
    assert "&lt;b&gt;.png" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("https://arxiv.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "").replace("https://matplotlib.org", "")


def test_the_same_runs_give_the_same_page(page):
    root, text = page
    write_report(root)
    assert (root / "report.html").read_text() == text


def test_what_was_not_measured_is_said_so(page, tmp_path):
    root, _ = page
    shutil.copytree(root / "ff", tmp_path / "study" / "ff")
    (tmp_path / "study" / "ff" / "results.json").unlink()
    [record] = write_report(tmp_path / "study")["results"]
    assert record["pretext accuracy"] == record["probe"] == record["raw"] == "not measured"


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(RunError, match="holds no finished run"):
        write_report(tmp_path)
