"""What stands below the attributes of a class."""

from __future__ import annotations

import ast
import inspect
import textwrap

from tables import sentence


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the text below each attribute that has one, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    previous = ""
    for statement in definition.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                previous = name
            case ast.Expr(value=ast.Constant(value=str(text))) if previous:
                found[previous] = sentence(text)
            case _:
                previous = ""
    return found
