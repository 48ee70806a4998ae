"""Whether a JSON Schema can be compiled into a grammar, found out in a process that may be killed.

llguidance takes for ever over some small schemas (an `allOf` of many patterns, a `maxItems` of
millions), and nothing stops it but the end of its process. So an engine asks here before it
compiles a schema that it has not seen yet. The child runs as
`python -m services.worker.engines.schema_check`, with bounds on CPU time and memory, reads the
schema and prints why not, if so. What does *not* live here: the grammar in use (`guidance.py`).
"""

import json
import resource
import subprocess
import sys
from typing import Any, cast

from llguidance import LLMatcher, LLParserLimits

from services.protocol.errors import ErrorCode, RequestError

CPU_LIMIT_S = 2
WALL_LIMIT_S = 10.0
"""On a machine that is busy with other things."""
MEMORY_LIMIT_BYTES = 2 << 30
MAX_GRAMMAR_SYMBOLS = 50_000
"""llguidance panics beyond 65535, after seconds; 2500 required properties need 30000."""
_LONGEST_REASON = 300
_REFUSED = 3
_TEXT_OR_JSON = r"""start: text | object
text: /(\s*[^\s{](.|\n)*)?/
object: %json """


def grammar_of(schema: str) -> str:
    """Return the grammar of a schema, unchecked; without white space between its values.

    A weak model may write white space for ever. The options are those of vLLM's `guidance` back
    end with `disable_any_whitespace`, so that both engines allow the same tokens.

    Raises:
        ValueError: the text is no JSON object.
    """
    return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})


def text_or_json_grammar_of(schema: str) -> str:
    """Return the grammar of an answer that is free text or JSON, of a schema that was checked.

    Text does not begin with `{`, so that the first character tells which of them it is. Lark's
    dialect is llguidance's own, and what vLLM's `guidance` back end takes as a grammar, too.
    """
    bound = {**json.loads(schema), "x-guidance": {"whitespace_flexible": False}}
    return _TEXT_OR_JSON + json.dumps(bound) + "\n"


def parser_limits() -> LLParserLimits:
    """Return the bounds on a grammar's size; those on each step are llguidance's own."""
    return LLParserLimits(max_grammar_size=MAX_GRAMMAR_SYMBOLS, verbose_errors=False)


def problem_of(schema: str) -> str:
    """Return why a schema does not compile within the limits, "" if it does.

    Takes as long as starting a process (0.1 s), 10 s at most.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "services.worker.engines.schema_check"],
            input=schema.encode(),
            capture_output=True,
            timeout=WALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it takes too long; simplify it"
    if ended.returncode == _REFUSED:
        return ended.stdout.decode(errors="replace")[:_LONGEST_REASON]
    if ended.returncode != 0:  # out of time or memory
        return "it takes too long or too much memory; simplify it"
    return ""


def refusal(reason: str) -> RequestError:
    """Return the error for a schema; `reason` may quote it, so it goes to its sender only."""
    return RequestError(
        ErrorCode.INVALID_VALUE,
        f"the JSON schema cannot be compiled: {reason}",
        param="response_format",
    )


def main() -> None:
    """Read a schema from stdin; end with 3 and a reason if it does not compile."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reason = _find_problem(sys.stdin.buffer.read().decode())
    if reason:
        sys.stdout.write(reason)
        sys.exit(_REFUSED)


def _find_problem(schema: str) -> str:
    try:
        grammar = grammar_of(schema)
    except ValueError:
        return "it is no JSON object"
    if _steers_the_compiler(json.loads(schema)):
        return '"x-guidance" is not taken'
    problem = LLMatcher.validate_grammar(grammar, limits=parser_limits())
    if problem.startswith("panic"):
        return "it is too large; simplify it"
    return "" if problem.startswith("WARNING") else " ".join(problem.split())


def _steers_the_compiler(schema: Any) -> bool:  # Any: parsed JSON
    """Whether it holds llguidance's own options, which switch checks off."""
    return isinstance(schema, dict) and "x-guidance" in cast("dict[str, Any]", schema)


if __name__ == "__main__":
    main()
