"""What mkdocstrings (griffe) is told when it reads the sources, before a docstring is parsed."""

from typing import Any

import griffe

from docs.hooks.rewriting import rewritten


class Docstrings(griffe.Extension):
    """Rewrites the docstring of each object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Give linen modules, whose fields are their arguments, the signature that they have."""
        if [str(base) for base in cls.bases] != ["LinenLayer"]:
            return
        kind = griffe.ParameterKind.positional_or_keyword
        fields = (each for each in cls.attributes.values() if each.annotation is not None)
        parameters = [
            griffe.Parameter(each.name, annotation=each.annotation, kind=kind, default=each.value)
            for each in fields
        ]
        name = griffe.Parameter("name", annotation="str | None", kind=kind, default="None")
        receiver = griffe.Parameter("self", kind=kind)
        made = griffe.Function(
            "__init__", parameters=griffe.Parameters(receiver, *parameters, name)
        )
        cls.set_member("__init__", made)
