"""Type checkers see the package as its users do."""

from pathlib import Path

import pytest

import holdingpen

SAMPLE = Path(__file__).with_name("typing_sample.py")


def test_the_package_says_that_it_is_typed():
    assert (Path(holdingpen.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_a_sample_of_everything_is_typed_as_documented(tmp_path):
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    words = ["--strict", "--config-file=", f"--cache-dir={tmp_path}", str(SAMPLE)]
    said, mistakes, status = api.run(words)
    assert (said + mistakes, status) == (
        "Success: no issues found in 1 source file\n",
        0,
    )
