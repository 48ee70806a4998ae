import csv
import io

import pytest

from services.launcher.audit_command import _csv_writer  # its only caller writes what HTTP gives
from services.store.audit_chain import AuditRecord


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str) -> None:
    file = io.StringIO()
    record = AuditRecord(
        "g", 1, 2, "r", text, None, "POST", "/v1", text, "", ["a", "b"], "", "", 200, "", "stop",
        -3, 4, 5,
    )  # fmt: skip
    _csv_writer(file)([record])

    (row,) = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert (row["tenant_id"], row["model"]) == (f"'{text}", f"'{text}")
    assert (row["images"], row["key_id"], row["prompt_tokens"]) == ("a b", "", "-3")
