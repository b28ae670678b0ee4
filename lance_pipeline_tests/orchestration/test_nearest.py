"""Suggestions for misspelt names."""

import pytest

from lance_pipeline.orchestration.nearest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "meant"),
    [("epoch", "epochs"), ("image-size", "image_size"), ("ImageSize", "image_size"), ("tracking", None), ("", None)],
)
def test_the_nearest_name_is_one_that_was_meant(name: str, meant: str | None):
    assert nearest(name, ["epochs", "image_size", "retrain"]) == meant


def test_the_question_shows_what_to_type():
    assert did_you_mean("digit", ["digits"], "`group:{}`".format) == " Did you mean `group:digits`?"
    assert did_you_mean("flowers", ["digits"]) == ""
