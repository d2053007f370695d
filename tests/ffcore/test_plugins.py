"""A directory is a registry, and a file of anyone's is a part."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ffcore.errors import RunError, SettingError
from ffcore.plugins import Plugins, trust
from ffmodels.parts import BACKBONES, METHODS
from fftrain.parts import DATASETS, VIEWS

MINE = """
from ffcore.settings import setting
from fftrain.views.base import View


class Mine(View):
    '''What I see. And more.'''

    times: int = setting(2, ge=1, description="How often.")

    def __call__(self, images, labels, draws):
        return (images,), labels
"""


@pytest.mark.parametrize("plugins", [BACKBONES, METHODS, VIEWS, DATASETS])
def test_every_file_of_a_directory_is_a_part_that_says_what_it_is(plugins):
    assert len(plugins) > 0
    for name in plugins:
        part = plugins.load(name)
        assert part.part_name == name
        assert "_" not in name
        assert plugins.load(name.replace("-", "_")) is part
        assert plugins[name] == part.__doc__.partition("\n")[0].rstrip(".")
        assert len(plugins[name]) > 10


def test_names_are_told_without_importing_anything_heavy():

    program = (
        "import sys; from ffmodels.parts import METHODS; from fftrain.parts import VIEWS; dict(METHODS), dict(VIEWS)"
    )
    program += "; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_unknown_name_is_told_with_the_near_one():
    with pytest.raises(SettingError, match=r"method 'forward-forwrad' is unknown: did you mean forward-forward\?"):
        METHODS.load("forward-forwrad")
    with pytest.raises(SettingError, match="view 'x' is unknown: choose among "):
        VIEWS.load("x")


def test_a_file_outside_is_a_part_where_a_person_named_it(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=rf"is code outside this package: look at it, then give --trust-plugin {path}"):
        VIEWS.load("./mine.py")
    trust("./mine.py")
    part = VIEWS.load("./mine.py")
    assert VIEWS.load(str(path)) is part
    found = part(times=3).to_dict()
    assert found == {"name": str(path), "times": 3, "sha256": found["sha256"]}
    assert len(found["sha256"]) == 16


def test_a_module_in_the_working_directory_is_found_however_the_program_was_started(tmp_path, monkeypatch):
    (tmp_path / "mylab_for_tests").mkdir()
    (tmp_path / "mylab_for_tests" / "seen.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    trust("mylab_for_tests.seen")
    assert VIEWS.load("mylab_for_tests.seen")().times == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "must hold one View, and it holds none"),
        (MINE + MINE.replace("Mine", "Other"), "must hold one View, and it holds Mine, Other"),
        (MINE.replace("__call__", "call"), "Mine lacks __call__: write it"),
        ("import nothing_of_that_name", "cannot be imported (ModuleNotFoundError"),
        ("def (", "cannot be imported (SyntaxError"),
    ],
)
def test_a_file_that_is_no_part_is_one_line(tmp_path, text, said):
    path = tmp_path / "broken.py"
    path.write_text(text)
    trust(str(path))
    with pytest.raises(SettingError) as error:
        VIEWS.load(str(path))
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    trust(str(tmp_path / "none.py"))
    with pytest.raises(SettingError, match=r"none\.py' is no file: name one that is there"):
        VIEWS.load(str(tmp_path / "none.py"))


def test_names_that_begin_with_a_line_and_base_are_no_parts():
    assert "base" not in METHODS
    assert not any(name.startswith("-") for name in Plugins("ffmodels", "x", "y"))
