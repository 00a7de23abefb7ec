"""Launch files as data: YAML documents read strictly, and what is found wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonschema import ValidationError
from jsonschema.protocols import Validator

from configs.command_line import nearest
from configs.errors import UserError

FILL_IN = "FILL_IN"
Document = dict[str, Any]


class Finding(NamedTuple):
    """One mistake: where, and what it got and what is allowed."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class _StrictLoader(yaml.SafeLoader):
    """A key that stands twice is a mistake, not the later one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key_node.value} stands twice", problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_documents(path: Path) -> list[Document]:
    """The YAML documents of a file. Raises UserError where it cannot be read, or holds anything but mappings."""
    try:
        documents = list(yaml.load_all(path.read_text(), Loader=_StrictLoader))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"path: got {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path.name}: got broken YAML{line}: {error.problem}") from None
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise UserError(f"{path.name}: got no mapping, allowed a launch file")
    return documents


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is neither mapping nor list, with its dotted path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def unfilled(document: Document) -> Iterator[Finding]:
    """Places that were left as the template has them."""
    for path, value in leaves(document):
        if isinstance(value, str) and FILL_IN in value:
            yield Finding(path, f"got {value!r}, allowed your own value")


def schema_findings(validator: Validator, document: Any, prefix: str = "") -> Iterator[Finding]:
    """What a JSON schema refuses, a line each; an unknown field with the nearest known one."""
    for error in sorted(validator.iter_errors(document), key=lambda error: error.json_path):
        path = prefix + error.json_path.removeprefix("$").lstrip(".")
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            yield from _unknown_fields(error, path)
        elif error.validator == "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            yield Finding(f"{path}.{missing}".lstrip("."), "got nothing, allowed a value: it is required")
        else:
            yield Finding(path, f"got {_short(error.instance)}, allowed {_rule(error)}")


def _unknown_fields(error: ValidationError, path: str) -> Iterator[Finding]:
    known = (error.schema if isinstance(error.schema, dict) else {}).get("properties", {})
    for name in error.instance:
        if name not in known:
            yield Finding(f"{path}.{name}".lstrip("."), f"unknown field{nearest(name, known)}")


def _rule(error: ValidationError) -> str:
    if error.validator in ("type", "enum"):
        allowed = error.validator_value
        return ", ".join(map(str, allowed)) if isinstance(allowed, list) else str(allowed)
    return f"{error.validator} {_short(error.validator_value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
