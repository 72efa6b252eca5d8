"""Settings that must stand before JAX starts."""

import os

# Several CPU devices, for everything that is sharded.
DEVICES = 4
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}={DEVICES}".strip()
