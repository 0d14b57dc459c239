"""One round of the drills of each kind; what needs processes that are killed, refused or short of disk is slow."""

import pytest
from drills import KINDS, Lab, play

FAST = ("other_options", "flipped_byte")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"), inside=True)


@pytest.mark.parametrize(
    "kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FAST)]
)
def test_a_round_ends_as_it_should(lab, kind):
    assert play(lab, kind, "round")["wrong"] is None
