"""Settings that must stand before JAX starts."""

import os
import pathlib

# Several CPU devices, for everything that is sharded.
DEVICES = 4
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}={DEVICES}".strip()

# Not the tables of choices of who runs the tests: a folder that is not there.
os.environ["FLAX_SEPCONV_TUNED"] = str(pathlib.Path(__file__).with_name("no_tables"))
