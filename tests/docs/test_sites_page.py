"""docs/sites.md says of each family what the tests of its standard ports check."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sites_page import FAMILIES, MEANINGS, PAGE, VIT, written

from telepatch_worker.standard_ports import STANDARD_PORTS


def test_the_tables_are_what_the_tests_check():
    page = PAGE.read_text()
    assert written(page) == page, "run python tests/docs/sites_page.py"
    assert page.count("| yes |") > 10


def test_every_model_type_with_standard_ports_is_in_the_table_and_the_other_way_round():
    assert {family.type for family in (*FAMILIES, VIT)} == set(STANDARD_PORTS)


def test_every_port_of_a_model_type_is_in_the_table_of_meanings():
    assert {name for ports in STANDARD_PORTS.values() for name in ports} == set(MEANINGS)
