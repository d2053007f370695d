"""What a report concludes: true of the run folders, and nothing where there are no numbers."""

from __future__ import annotations

import re
import shutil
import statistics

import pytest

from ffcore.files import read_json
from fftrain.report.findings import COUNTED, findings
from fftrain.report.findings import _sentence as sentence
from fftrain.report.frame import collect
from fftrain.report.means import Mean, groups
from tests.fftrain.reports import cell_name, change, files_of, measured, part, probes, remeasured, reported


def sentences(root):
    return findings(groups(collect(root)))


def set_test(root, method, seed, source, value):
    """Sets the test accuracy of all of a source's probes of one run."""

    def do(record):
        if (record["measure"], record["split"], record["source"]) == ("probe accuracy", "test", source):
            record["value"] = value

    remeasured(root / "cells" / cell_name(method, seed), do)


@pytest.fixture
def two(study, tmp_path):
    """Two seeds of ff and bp, raw 0.5, random 0.6."""
    root = tmp_path / "tiny"
    for seed in (0, 1):
        part(study, root, ("ff", seed), ("bp", seed))
        for method in ("ff", "bp"):
            set_test(root, method, seed, "raw", 0.5)
            set_test(root, method, seed, "random", 0.6)
    plan = read_json(study[0] / "study.json")
    names = [cell_name(method, seed) for seed in (0, 1) for method in ("ff", "bp")]
    cells = [cell for cell in plan["cells"] if cell["name"] in names]
    change(root / "study.json", lambda content: content.update(cells=cells, pairs=[]))
    return root


def test_the_best_features_and_their_lead_are_those_of_the_run_folders(study):
    root, _ = study
    text = (root / "report.md").read_text()
    [said] = [line for line in text.splitlines() if line.startswith("- rotation on digits:")]
    means = {}
    for method, reading, seeds in (
        ("ff", "neutral", (0, 1)),
        ("bp", "pixels", (0, 1)),
        ("bp-goodness-all", "neutral", (0,)),
    ):
        runs = [measured(root, method, seed) for seed in seeds]
        means[method] = statistics.mean(probes(run, reading, method)[1] for run in runs)
        random = statistics.mean(probes(run, reading, "random")[1] for run in runs)
        means.setdefault(f"random with reading {reading}", random)
    means["raw"] = probes(measured(root, "ff", 0), "neutral", "raw")[1]
    for name, mean in means.items():
        assert re.search(rf" {name} \(?{100 * mean:.1f}\b", said), (name, said)
    ranked = sorted(means, key=means.get, reverse=True)
    assert f"read best from {ranked[0]} (" in said
    lead = means[ranked[0]] - means[ranked[1]]
    assert f"{100 * lead:.1f} points ({round(lead * 359)} of 359 test images) above {ranked[1]}" in said
    assert "Of 2 pairs of data set and view, a trained backbone is ahead in" in text


def test_a_lead_stands_beside_the_deviation_over_seeds(two):
    for seed, bp in ((0, 0.70), (1, 0.74)):
        set_test(two, "bp", seed, "bp", bp)
        set_test(two, "ff", seed, "ff", 0.55)
    assert sentences(two) == [
        "rotation on digits: the class is read best from bp (72.0 ± 2.8), 12.0 points (43 of 359 test images) above "
        "random with reading neutral (60.0 ± 0.0); then random with reading pixels 60.0 ± 0.0, ff 55.0 ± 0.0, raw "
        "50.0. The deviation over seeds is 2.8."
    ]
    set_test(two, "ff", 0, "ff", 0.66)
    set_test(two, "ff", 1, "ff", 0.76)
    [said] = sentences(two)
    assert "above ff (71.0 ± 7.1); then" in said
    assert said.endswith("The lead is no larger than the deviation over seeds (7.1).")
    set_test(two, "ff", 1, "ff", 0.78)
    assert "(72.0 ± 2.8)" in sentences(two)[0].partition(" alike; then random")[0]


def test_of_many_the_next_are_named_and_the_baselines():
    ranked = [(f"m{i}", Mean(values={0: 1 - i / 100}, lacking={})) for i in range(12)]
    ranked.insert(10, ("random with reading pixels", Mean(values={0: 0.895}, lacking={})))
    ranked.append(("raw", Mean(values={0: 0.4}, lacking={})))
    said = sentence(ranked, 0.01, None, 100, 10_000)
    told = [f"m{i} {100 - i}.0" for i in range(2, 8)]
    assert (
        f"above m1 (99.0); then {', '.join(told)}, 4 more down to 89.0, random with reading pixels 89.5, raw 40.0."
        in said
    )
    assert "more" not in sentence(ranked[:8], 0.01, None, 100, 10_000)


def test_one_seed_says_that_the_spread_is_not_known(page):
    [said] = sentences(page[0])
    assert said.endswith("Of one seed: how far seeds differ is not known.")
    assert f"<li>{said}</li>" in page[1]


def test_nothing_is_concluded_where_nothing_was_probed(page, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(page[0] / "ff", root / "ff")
    for path in files_of(root / "ff", "linear"):
        path.unlink()
    assert sentences(root) == []
    reported(root)
    assert "In short" not in (root / "report.html").read_text()
    shutil.rmtree(root / "ff" / "evaluations")
    assert sentences(root) == []


def test_parts_without_content_are_named_in_one_line(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0))
    files_of(root / "cells" / cell_name("bp", 0), "linear", dataset="mnist")[0].unlink()
    reported(root)
    for name in ("report.html", "report.md"):
        text = (root / name).read_text()
        assert "Nothing was measured for: Supervised reference; Ablation; Readings; Transfer across data sets;" in text
        assert text.count("Nothing was measured") == 1
        assert "Ablation" not in text.replace("Reference; Ablation", "").replace("reference; Ablation", "")


def test_published_columns_stand_only_where_something_is_published(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    reported(root)
    assert "| digits published |" in (root / "report.md").read_text()
    change(root / "study.json", lambda content: content["spec"].update(published={}))
    reported(root)
    for name in ("report.html", "report.md"):
        text = (root / name).read_text().lower()
        assert "digits published" not in text
        assert "not published" not in text


def test_shares_that_are_not_of_images_are_not_counted_in_images():
    counted = ["probe accuracy", "knn accuracy", "accuracy with 10 labels a class"]
    assert [*filter(COUNTED.match, [*counted, "pixel accuracy", "accuracy under corruptions", "AP"])] == counted
