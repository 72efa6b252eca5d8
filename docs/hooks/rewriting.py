"""Docstrings as pages: what they say in plain text becomes what Markdown shows the same way.

- "Example:" becomes the section "Examples:", whose doctests are code; so do doctests that stand
  between paragraphs.
- "Source:" becomes a paragraph with links.
- An equation (a paragraph that begins like `y[b, l, f] = ...`) becomes code.
- "strides, padding: as there" becomes an entry for each of the arguments.
"""

import re
import textwrap

_EQUATION = re.compile(r"^(?:[a-z_']+(?:\[[^]]+\])?'?|T\(.*?\)|params \+ updates') = .*[*+/()\[]")
_ADDRESS = re.compile(r"(?<![(<\[])(https?://[^\s,)]+)")
_SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Yields:", "Examples:")


def rewritten(text: str) -> str:
    r"""Return a docstring in the form that griffe and Markdown understand.

    >>> print(rewritten("Filter.\n\ny[b, l] = x[b, l] * k\n\nExample:\n    1 + 1"))
    Filter.
    <BLANKLINE>
        y[b, l] = x[b, l] * k
    <BLANKLINE>
    Examples:
        1 + 1
    """
    parts = []
    section = ""
    for part in re.split(r"\n{2,}", text):
        head = part.split("\n", 1)[0]
        if not head.startswith(" "):
            section = head if head in (*_SECTIONS, "Example:") else ""
        if section == "Example:":
            part = part.replace(section, "Examples:", 1) if head == section else part
        elif head.lstrip().startswith(">>> "):
            part = "Examples:\n" + textwrap.indent(textwrap.dedent(part), "    ")
        elif not section and _EQUATION.match(head):
            part = _shown(part)
        else:
            if section in ("Args:", "Attributes:"):
                part = "\n".join(_entries(part.split("\n")))
            elif head.startswith("Source: "):
                part = _ADDRESS.sub(r"<\1>", part)
            part = _escaped(part)
        parts.append(part)
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    r"""Keep products from being read as emphasis, but where they are code.

    >>> print(_escaped("(..., C*M) of `C*M` and *other* words"))
    (..., C\*M) of `C*M` and *other* words
    """
    product = re.compile(r"(?<=\w)\*(?=[\w(])")
    pieces = text.split("`")
    return "`".join(
        piece if number % 2 else product.sub(r"\*", piece) for number, piece in enumerate(pieces)
    )


def _entries(lines: list[str]) -> list[str]:
    """Give each of several arguments that are explained together an entry of its own.

    >>> _entries(["Args:", "    a, b,", "        c: as there", "        is said.", "    d: no."])
    ['Args:', '    a: as there is said.', '    b: as there is said.', '    c: as there is said.', \
'    d: no.']
    """
    entries: list[list[str]] = []
    found = lines[:1]
    for line in lines[1:]:
        if re.match(r"    \S", line):
            entries.append([line.strip()])
        elif entries:
            entries[-1].append(line.strip())
    for entry in entries:
        names, colon, told = " ".join(entry).partition(": ")
        if not colon or not re.fullmatch(r"[\w*]+(?:, [\w*]+)*", names):
            found.append("    " + " ".join(entry))
            continue
        found += [f"    {name}: {told}" for name in names.split(", ")]
    return found


def _shown(equation: str) -> str:
    """Make code of an equation: a block, or a part of its paragraph where words follow.

    >>> print(_shown("w' = f(w, 2) / norm, the norm of w"))
    `w' = f(w, 2) / norm`, the norm of w
    >>> _shown("y[b, l] = x[b, l] * k")
    '    y[b, l] = x[b, l] * k'
    """
    depth = 0
    for place, letter in enumerate(equation):
        depth += (letter in "([") - (letter in ")]")
        if not depth and re.match(r"[,;.:] ", equation[place : place + 2]):
            code = " ".join(equation[:place].split())
            return f"`{code}`{_escaped(equation[place:])}"
    return textwrap.indent(equation, "    ")
