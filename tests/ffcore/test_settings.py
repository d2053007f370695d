from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from ffcore.errors import SettingError
from ffcore.settings import Settings, assigned, read_toml, setting, shown


class Some(Settings):
    count: int = setting(2, ge=1, le=9, description="How many.")
    rate: float = setting(0.5, gt=0, description="How fast.")
    kind: Literal["a", "b"] = setting("a", description="Which.")
    sizes: tuple[int, ...] = setting((1, 2), description="How large.")
    on: bool = setting(False, description="Whether.")
    text: str | None = setting(None, description="What.")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 0}, "count is 0: it must be at least 1"),
        ({"count": 10}, "count is 10: it must be at most 9"),
        ({"count": 2.5}, "count is 2.5: it must be a whole number"),
        ({"count": True}, "count is True: it must be a whole number"),
        ({"count": "2"}, "count is '2': it must be a whole number"),
        ({"rate": 0}, "rate is 0: it must be above 0"),
        ({"rate": float("nan")}, "rate is nan: it must be"),
        ({"rate": float("inf")}, "rate is inf: it must be a finite number"),
        ({"rate": "fast"}, "rate is 'fast': it must be a number"),
        ({"sizes": "1,2"}, "sizes is '1,2': it must be a list, such as [1, 2]"),
        ({"sizes": True}, "sizes is True: it must be a list, such as [true]"),
        ({"kind": "c"}, "kind is 'c': choose one of a, b"),
        ({"on": 1}, "on is 1: it must be true or false"),
        ({"text": 1}, "text is 1: it must be text"),
        ({"sizes": 3}, "sizes is 3: it must be"),
        ({"cuont": 1}, "cuont (set to 1) is no setting: did you mean count? choose among count, kind, on"),
    ],
)
def test_a_value_that_is_not_legal_is_one_line_with_what_is(values, said):
    with pytest.raises(SettingError) as error:
        Some(**values)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_are_frozen_compared_by_value_and_changed_as_copies():
    one = Some(rate=1, sizes=[3, 4])
    assert (one.rate, one.sizes) == (1.0, (3, 4))
    assert one == Some(rate=1.0, sizes=(3, 4)) != Some()
    other = one.changed(count=5)
    assert (other.count, other.rate, one.count) == (5, 1.0, 2)
    with pytest.raises(SettingError):
        one.changed(count=0)
    with pytest.raises(ValueError, match="frozen"):
        one.count = 3


def test_what_is_recorded_makes_the_same_settings_again():
    one = Some(count=3, sizes=(7,), text="x", kind="b", on=True)
    assert one.to_dict() == {"count": 3, "rate": 0.5, "kind": "b", "sizes": [7], "on": True, "text": "x"}
    assert Some.made(one.to_dict()) == one


def test_messages_name_where_a_setting_belongs():
    with pytest.raises(SettingError, match=r"^part\.count is 0"):
        Some.made({"count": 0}, "part.")


def test_assignments_are_typed_as_toml_has_them_and_else_text():
    words = ["a.x=3", "a.y=1e-3", "a.z=true", "b.names=[1, 2]", "b.text=plain words", 'b.quoted="3"', "a.long-name=1"]
    assert assigned(words, ("a", "b")) == {
        "a": {"x": 3, "y": 1e-3, "z": True, "long_name": 1},
        "b": {"names": [1, 2], "text": "plain words", "quoted": "3"},
    }


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("width=3", "'width=3' is no setting: write PART.KEY=VALUE"),
        ("backbone.width", "is no setting: write PART.KEY=VALUE"),
        ("bakcbone.width=3", "did you mean backbone.width?"),
        ("=", "is no setting"),
    ],
)
def test_a_word_that_is_no_assignment(word, said):
    with pytest.raises(SettingError) as error:
        assigned([word], ("backbone", "method"))
    assert said in str(error.value)


def test_settings_are_shown_with_default_bounds_and_meaning():
    rows = {row["setting"]: row for row in shown(Some)}
    assert rows["count"] == {
        "setting": "count",
        "default": "2",
        "legal": "whole number, at least 1, at most 9",
        "meaning": "How many.",
    }
    assert rows["kind"]["legal"] == "a, b"
    assert rows["on"]["legal"] == "true or false"
    assert rows["text"]["default"] == ""


@pytest.mark.parametrize("text", ["lr = ", "[", "\x00"])
def test_a_file_that_is_not_toml(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=r"--config .*recipe\.toml is not TOML"):
        read_toml(path)


def test_toml_keys_may_be_written_as_options_are(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("batch-size = 64\n")
    assert read_toml(path) == {"batch_size": 64}
    with pytest.raises(SettingError, match=r"none\.toml cannot be read: No such file"):
        read_toml(tmp_path / "none.toml")


class Every(Settings):
    maybe: float | None = setting(None, gt=0)
    numbered: Literal[18, 34] = 18
    perhaps: Literal["small", "large"] | None = None
    many: tuple[Annotated[int, Field(ge=1)], ...] = (5, 3)
    names: tuple[Literal["max", "none"], ...] = ("max",)


@pytest.mark.parametrize(
    ("name", "default", "legal"),
    [
        ("maybe", "", "number, above 0"),
        ("numbered", "18", "18, 34"),
        ("perhaps", "", "small, large"),
        ("many", "(5, 3)", "list of whole number, at least 1"),
        ("names", "('max',)", "list of max or none"),
    ],
)
def test_a_setting_is_shown_with_what_it_takes(name, default, legal):
    [row] = [row for row in shown(Every) if row["setting"] == name]
    assert (row["default"], row["legal"]) == (default, legal)
