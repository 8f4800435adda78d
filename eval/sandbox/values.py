"""Values of a program as plain JSON that keeps their types, and whether two of them are equal.

Standard library only: the sandbox's server, from which every job is forked, imports it. What a program sends
may be anything; nothing here raises on it, or works longer than its length allows.
"""

import hashlib
import json
import math
from typing import Any

RELATIVE_TOLERANCE = 1e-7
ABSOLUTE_TOLERANCE = 1e-6
"""EvalPlus's tolerances."""

MAX_SHOWN = 80


class Opaque:
    """Stands for an object of a class that is not builtin; equal to nothing."""


_CONTAINERS: tuple[tuple[Any, str], ...] = (
    (list, "list"),
    (tuple, "tuple"),
    (set, "set"),
    (frozenset, "frozenset"),
)

_BYTES: tuple[Any, ...] = (bytes, bytearray)
_PLAIN = {int, float, str, bool, type(None)}
LARGEST = 2**63


def encode(value: Any, depth: int = 0) -> list[Any]:
    """A value as JSON that keeps its type: `[class, content]`. Other types than builtins become opaque.

    Subclasses count as their builtin (Counter as dict, namedtuple as tuple), whatever they say of themselves;
    NumPy scalars count as numbers. In a container of nothing but small numbers, texts and constants these
    stand as they are: a million of them then takes no longer than JSON does.
    """
    if depth > 200:
        return ["opaque", "nested too deeply"]
    if value is None or value is True or value is False:
        return ["const", value]
    if isinstance(value, int):
        return ["int", int.__format__(int.__int__(value), "x")]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        number = complex.__complex__(value)
        return ["complex", [number.real.hex(), number.imag.hex()]]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    for kind in _BYTES:
        if isinstance(value, kind):
            return ["bytes", kind.hex(value)]
    for kind, name in _CONTAINERS:
        if isinstance(value, kind):
            items = list(kind.__iter__(value))
            return [name, items if _are_plain(items) else [encode(item, depth + 1) for item in items]]
    if isinstance(value, dict):
        return ["dict", [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in dict.items(value)]]
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return encode(value.item(), depth + 1)
    return ["opaque", type(value).__name__]


def _are_plain(items: list[Any]) -> bool:
    types = set(map(type, items))
    if not types <= _PLAIN:
        return False
    whole = [item for item in items if type(item) is int] if types != {int} else items
    return not whole or (min(whole) > -LARGEST and max(whole) < LARGEST)


def decode(data: Any) -> Any:
    """The value that `encode` described. Raises ValueError, TypeError or RecursionError for other JSON."""
    if type(data) in _PLAIN:
        return data
    kind, content = data
    match kind:
        case "const":
            if content is None or isinstance(content, bool):
                return content
        case "int":
            return int(content, 16)
        case "float":
            return float.fromhex(content)
        case "complex":
            return complex(float.fromhex(content[0]), float.fromhex(content[1]))
        case "str":
            return str(content)
        case "bytes":
            return bytes.fromhex(content)
        case "list":
            return [decode(item) for item in content]
        case "tuple":
            return tuple(decode(item) for item in content)
        case "set":
            return {decode(item) for item in content}
        case "frozenset":
            return frozenset(decode(item) for item in content)
        case "dict":
            return {decode(key): decode(value) for key, value in content}
        case "opaque":
            return Opaque()
    raise ValueError(f"not a value: {kind!r:.40}")


# ------------------------------------------------------------------------------------------ equality


def same(output: Any, expected: Any) -> bool:
    """Equal values of the same kind, also inside of containers.

    True is not 1 and a tuple is not a list; 2 equals 2.0; a float is expected up to 1e-6 absolute or
    1e-7 relative.
    """
    return same_encoded(encode(output), encode(expected))


def same_encoded(output: Any, expected: list[Any]) -> bool:
    """As `same`, of what `encode` made. `output` may be any JSON: what is malformed equals nothing."""
    try:
        return isinstance(output, list) and _equal(output, expected)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, MemoryError):
        return False


_NUMBERS = ("int", "float", "complex")
_SETS = ("set", "frozenset")


def _equal(output: Any, expected: Any) -> bool:
    if type(output) in _PLAIN and type(output) is type(expected) and output == expected:
        return True
    kind, wanted = _pair(expected)
    found_kind, found = _pair(output)
    if kind in _NUMBERS and found_kind in _NUMBERS:
        return _same_number(decode([found_kind, found]), decode([kind, wanted]))
    if kind in _SETS and found_kind in _SETS:
        return len(found) == len(wanted) and {_key(item) for item in found} == {_key(item) for item in wanted}
    if found_kind != kind or kind == "opaque":
        return False
    if kind in ("list", "tuple"):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if kind == "dict":
        if len(found) != len(wanted):
            return False
        values = {_key(key): value for key, value in found}
        return len(values) == len(wanted) and all(
            (name := _key(key)) in values and _equal(values[name], value) for key, value in wanted
        )
    if kind == "const":
        return found is wanted
    return type(found) is str and found == wanted


def _pair(encoded: Any) -> Any:
    return encode(encoded) if type(encoded) in _PLAIN else encoded


def _same_number(output: complex, expected: complex) -> bool:
    if isinstance(output, complex) or isinstance(expected, complex):
        return output == expected
    if isinstance(expected, float):
        try:
            return math.isclose(output, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        except OverflowError:  # an integer beyond all floats
            return False
    return output == expected


def _key(encoded: Any) -> str:
    """Text of bounded length that is the same for equal dict keys or set members, and other for True and 1.

    Text and not the value: its hash cannot be chosen by who made the value.
    """
    kind, content = encoded = _pair(encoded)
    if kind in ("int", "float"):
        value = decode(encoded)
        is_whole = kind == "int" or (math.isfinite(value) and value == int(value))
        return f"number {int(value):x}" if is_whole else f"number {value.hex()}"
    if kind in ("list", "tuple"):
        parts = [_key(item) for item in content]
    elif kind in _SETS:
        kind, parts = "set", sorted(_key(item) for item in content)
    else:
        parts = [json.dumps(content)]
    return f"{kind} {hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def as_json(encoded: Any) -> Any:
    """An encoded value as JSON could hold it: tuples are lists, and keys of a dict are text.

    Expected values that were read from JSON are compared so: they cannot say more.
    """
    if not isinstance(encoded, list) or len(encoded) != 2:
        return encoded
    kind, content = encoded
    try:
        if kind in ("list", "tuple"):
            return ["list", [as_json(item) for item in content]]
        if kind == "dict":
            return ["dict", [[_as_json_key(key), as_json(value)] for key, value in content]]
    except (ValueError, TypeError, RecursionError, OverflowError):
        return ["opaque", "malformed"]
    return encoded


def _as_json_key(encoded: Any) -> Any:
    """As the module json writes it; other keys stay, and equal no text."""
    kind, _ = _pair(encoded)
    if kind in ("int", "float", "const"):
        value = decode(encoded)
        return ["str", json.dumps(value) if kind != "int" else f"{value:d}"]
    return encoded


# ------------------------------------------------------------------------------------------- showing


def shown(text: Any) -> str:
    """Short text of what a program said about itself, without what a terminal or file would stumble over."""
    try:
        plain = text if isinstance(text, str) else json.dumps(text)
    except RecursionError:
        plain = "(nested too deeply)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain[:200])[:200]


def shown_value(encoded: Any) -> str:
    """Short text of a value; of long ones only the kind."""
    try:
        text = json.dumps(encoded)
        if len(text) > 2_000:
            kind = (
                encoded[0]
                if isinstance(encoded, list) and encoded and isinstance(encoded[0], str)
                else "value"
            )
            return f"({shown(kind[:20])} of {len(text)} characters)"
        return shown(repr(decode(encoded)))[:MAX_SHOWN]
    except Exception:  # whatever a program can make of a value
        return "(no value)"
