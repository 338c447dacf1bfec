"""docs/security.md says what mesh/identity.py says. `REWRITE_GOLDEN=1` writes the table of roles anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.support.role_table import table

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PLACE = re.compile(r"(<!-- roles: generated -->\n\n)(.*?)(\n\n<!-- end of roles -->)", re.DOTALL)


def test_the_table_of_roles_is_up_to_date() -> None:
    text = PAGE.read_text()
    if os.environ.get("REWRITE_GOLDEN"):
        text = PLACE.sub(lambda found: found[1] + table() + found[3], text)
        PAGE.write_text(text)
    found = PLACE.search(text)
    assert found, "docs/security.md has no place for the table of roles"
    assert found[2] == table(), "the table of roles is old: REWRITE_GOLDEN=1 writes it anew; review the difference"
