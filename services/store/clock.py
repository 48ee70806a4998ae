"""The database's clock, the same for every machine that uses it (a SQLite file has but one)."""

from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now_ms(FunctionElement[int]):  # noqa: N801 - used as an SQL function
    """Milliseconds since 1970, UTC."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _on_sqlite(_element: now_ms, _compiler: Any, **_: Any) -> str:  # noqa: ANN401 - SQLAlchemy's
    return "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"  # 1970 as a Julian day


@compiles(now_ms, "postgresql")
def _on_postgresql(_element: now_ms, _compiler: Any, **_: Any) -> str:  # noqa: ANN401 - as above
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
