"""A lowering's version is raised when what it computes, or how, changes.

Tables of choices that users measured go by it: with another version they do not count. The digests
of the code, without comments, are in `kernel_versions.json`.
"""

import hashlib
import json
import pathlib
import re

import pytest

from flax_sepconv import ops
from flax_sepconv.ops.lowerings import LOWERINGS

KNOWN = pathlib.Path(__file__).with_name("kernel_versions.json")
OPS = pathlib.Path(ops.__file__).parent


def code(path):
    """Return a file's text without comments, docstrings and space."""
    text = path.read_text()
    if path.suffix == ".py":
        text = re.sub(r'"""(.*?)"""', "", text, flags=re.DOTALL)
        text = re.sub(r"(^ *|  )#[^\n]*$", "", text, flags=re.MULTILINE)
    else:
        text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", "", text)


def digest(name):
    """Return the digest of a lowering's file and of the folder of its kernels."""
    files = [OPS / "lowerings" / f"{name}.py"]
    files += (each for each in (OPS / name).glob("*") if each.suffix in (".py", ".cc", ".h"))
    hashed = hashlib.sha256()
    for file in sorted(files):
        hashed.update(f"{file.name}\n{code(file)}\n".encode())
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize("name", LOWERINGS)
def test_the_version_goes_with_the_code(name):
    known = json.loads(KNOWN.read_text()).get(name, {})
    now = {"version": LOWERINGS[name].version, "digest": digest(name)}
    if known.get("digest") == now["digest"]:
        assert known["version"] == now["version"], f"only the version of {name} changed"
    else:
        pytest.fail(
            f"the code of {name} changed. Raise `version` in ops/lowerings/{name}.py if its speed "
            f"or its numbers may have: tables that were measured before do not count then (ship "
            f'new ones). Then put this into {KNOWN.name}: "{name}": {json.dumps(now)}'
        )


def test_no_other_lowering_is_known():
    assert set(json.loads(KNOWN.read_text())) == set(LOWERINGS)


def test_comments_are_no_code(tmp_path):
    texts = {"a.py": 'x = 1  # one\n"""Say."""\n', "b.py": "x=1", "a.h": "int x; // a\n/* b */"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert code(tmp_path / "a.py") == code(tmp_path / "b.py")
    assert code(tmp_path / "a.h") == "intx;"
