"""Full disks, signals, odd kinds of files, odd names: one clear line, and nothing half written."""

import contextlib
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

from flax_sepconv import interop
from flax_sepconv.interop import InteropError, Layer, formats
from flax_sepconv.interop.command import main
from tests import peers

WEIGHTS = {
    "depthwise_kernel": np.ones((3, 200, 1), "float32"),
    "pointwise_kernel": np.ones((1, 200, 300), "float32"),
}
WRITTEN = ("a.safetensors", "a.pt", "a.weights.h5")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    interop.save(path, [Layer("a", WEIGHTS)])
    return path


def convert(source, dest, *more):
    return main(["convert", str(source), str(dest), *map(str, more)])


def assert_error(capsys, status, *parts):
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert all(part in err for part in parts), err


def assert_equal(path):
    (layer,) = interop.load(path)
    for name, weight in WEIGHTS.items():
        np.testing.assert_array_equal(layer.weights[name], weight)


# Writing


@contextlib.contextmanager
def small_disk():
    """Let no file become larger than a part of the weights."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python sets it
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk(name, source, capsys):
    """The numbers need more room than there is: PyTorch and h5py meet that in ways of their own."""
    if name == "a.pt":
        peers.torch()
    dest = source.with_name(name)
    for old in (None, b"old"):
        if old:
            dest.write_bytes(old)
        before = sorted(os.listdir(source.parent))
        with small_disk():
            status = convert(source, dest, "--force")
            with pytest.raises(InteropError, match=f"{name} cannot be written: File too large"):
                interop.save(dest, [Layer("a", WEIGHTS)], overwrite=True)
        assert_error(capsys, status, f"{name} cannot be written: File too large")
        assert sorted(os.listdir(source.parent)) == before
        assert not old or dest.read_bytes() == old


HALF = """
import sys, time
from flax_sepconv.interop import command, safetensors_file
def write(path, layers):
    path.write_text("half")
    print("half", flush=True)
    time.sleep(100)
safetensors_file.write = write
sys.exit(command.main(sys.argv[1:]))
"""


def test_signals_half_way(source):
    """What is killed leaves its file to the next run, which takes that of no living process."""
    folder = source.parent
    processes = []
    for name in ("killed", "ended"):
        command = [sys.executable, "-c", HALF, "convert", source, folder / f"{name}.safetensors"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, **pipes))
    assert [process.stdout.readline() for process in processes] == ["half\n"] * 2
    killed, ended = processes
    strangers = [folder / ".flax_sepconv-mine", folder / ".flax_sepconv-0123456789abcdef"]
    strangers[0].touch()
    strangers[1].mkdir()

    def left():
        return set(folder.glob(".flax_sepconv-*")) - set(strangers)

    assert len(left()) == 2
    killed.kill()
    killed.communicate()
    assert len(left()) == 2
    interop.save(folder / "next.safetensors", [Layer("a", WEIGHTS)])
    assert len(left()) == 1
    for _ in range(3):
        ended.send_signal(signal.SIGTERM)
    _, told = ended.communicate()
    assert (ended.returncode, told) == (128 + signal.SIGTERM, "interrupted: nothing was written\n")
    assert not left()
    names = {path.name for path in folder.iterdir()} - {path.name for path in strangers}
    assert names == {"source.safetensors", "next.safetensors"}
    assert all(path.exists() for path in strangers)


def test_signals_are_given_back(source):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    convert(source, source.with_name("b.safetensors"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("name", WRITTEN)
def test_links_stay_and_what_they_lead_to_is_replaced(name, source):
    if name == "a.pt":
        peers.torch()
    other = source.parent / "other"
    other.mkdir()
    link, target = source.with_name(name), other / name
    link.symlink_to(os.path.join("other", name))
    for there in (False, True):
        if there:
            target.write_bytes(b"old")
            target.chmod(0o640)
        assert convert(source, link) == 2
        assert convert(source, link, "--force") == 0
        assert link.is_symlink()
        assert not target.is_symlink()
        assert_equal(link)
        assert_equal(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert os.listdir(other) == [name]


@contextlib.contextmanager
def kinds(folder):
    """Yield what is in a folder and no regular file, with its name in errors."""
    made = {folder / "fifo": "a FIFO", folder / "folder": "a folder", folder / "socket": "a socket"}
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    with contextlib.suppress(PermissionError):  # Only root may.
        os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
        made[folder / "device"] = "a device"
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(folder):
        end.bind("socket")  # Its whole path may be too long.
        yield made


def test_nothing_but_files_is_replaced(source, capsys):
    with kinds(source.parent) as made:
        for path, kind in made.items():
            link = path.with_name(f"link to {path.name}")
            link.symlink_to(path)
            for dest in (path, link):
                before = os.lstat(dest)
                status = convert(source, dest, "--force", "--to", "safetensors")
                assert_error(capsys, status, f"must be a regular file, it is {kind}")
                assert os.lstat(dest)[:4] == before[:4]
            assert path.exists()


# Reading


@contextlib.contextmanager
def within(seconds):
    """Fail where something blocks or reads without an end."""

    def late(number, frame):
        raise AssertionError("it did not end")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("form", [None, *formats.FORMATS])
def test_nothing_but_files_is_read(form, tmp_path):
    with kinds(tmp_path) as made, within(30):
        for path, kind in made.items():
            message = re.escape(str(path)) if kind == "a folder" else f"it is {kind}"
            with pytest.raises(InteropError, match=message):
                interop.load(path, form)


@pytest.mark.parametrize("name", ["m.index", "checkpoint", "saved/variables/variables.index"])
def test_parts_that_are_no_files(name, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "saved").mkdir(exist_ok=True)
    (tmp_path / "saved/saved_model.pb").touch()
    os.mkfifo(tmp_path / name)
    given = {"m.index": "m", "checkpoint": "."}.get(name, "saved")
    with within(30), pytest.raises(InteropError, match="must be a regular file, it is a FIFO"):
        interop.load(tmp_path / given)


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(name, b"{}")
    return bytearray(path.read_bytes())


def patched(content, offsets, value):
    """Change a 16-bit field of every member: in its own header, and in the list at the end."""
    for mark, offset in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
        place = content.find(mark)
        while place >= 0:
            struct.pack_into("<H", content, place + offset, value)
            place = content.find(mark, place + 4)
    return content


ARCHIVES = {
    "a name that is no UTF-8": lambda c: patched(c, (6, 8), 0x800).replace(
        b"json", b"\xff\xfe\xfdn"
    ),
    "of a later version": lambda c: patched(c, (4, 6), 99),
    "encrypted": lambda c: patched(c, (6, 8), 1),
    "packed in an unknown way": lambda c: patched(c, (8, 10), 77),
    "names that differ": lambda c: c.replace(b"config", b"conjig", 1),
    "a comment that is too long": lambda c: c[:-2] + b"\xff\xff",
}


@pytest.mark.parametrize("case", ARCHIVES)
@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("m.keras", ("metadata.json", "config.json", "model.weights.h5")),
        ("m.pt", ("a/data.pkl", "a/version", "a/config.json")),
    ],
)
def test_odd_archives(name, members, case, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(ARCHIVES[case](archive(path, members)))
    for more in ((), ("--from", "keras"), ("--from", "torch")):
        assert_error(capsys, main(["inspect", str(path), *more]), name)


@pytest.mark.parametrize("layout", ["strided", "jagged"])
def test_nested_tensors(layout, tmp_path):
    torch = peers.torch()
    tensors = [torch.ones(2, 1, 3), torch.ones(4, 1, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are new
        nested = torch.nested.nested_tensor(tensors, layout=getattr(torch, layout))
    torch.save({"dw.weight": nested, "pw.weight": torch.ones(5, 2, 1)}, tmp_path / "m.pt")
    with pytest.raises(InteropError, match=r"dw\.weight must be a dense tensor|holds more than"):
        interop.load(tmp_path / "m.pt")


NAMES = ("a\0b.pt", "a" * 300, "a" * 5000, f"{'a' * 5000}.pt", "~nobody/a.pt", "\udcff\ud800.pt")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_odd_names(name, source, capsys, monkeypatch):
    monkeypatch.chdir(source.parent)
    for form in (None, *formats.FORMATS):
        with pytest.raises(InteropError):
            interop.load(name, form)
    for form in formats.WRITABLE:
        with pytest.raises(InteropError, match="cannot be written"):
            interop.save(name, [Layer("a", WEIGHTS)], form)
    assert_error(capsys, convert(source, name, "--to", "torch"))
    assert_error(capsys, main(["inspect", name]))
    assert os.listdir() == [source.name]


def test_loops_of_links(source, capsys):
    loop = source.with_name("loop.safetensors")
    loop.symlink_to(loop)
    assert_error(capsys, convert(source, loop, "--force"), "cannot be written: Too many levels")
    assert_error(capsys, main(["inspect", str(loop)]), "does not exist")
    assert loop.is_symlink()
