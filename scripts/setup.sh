#!/usr/bin/env bash
# Set vidssl up in this checkout; run it again at any time, a second run takes seconds.
#
#   system   libraries that drawing and headless rendering load: only those that are missing, only as root, with apt-get
#   .tools/  uv, the package manager, in an environment of its own
#   .venv/   Python packages at the versions of uv.lock, and vidssl itself, editable; what else you put there stays
#
# Nothing else is written but uv's cache (its default place). Needs python3 with venv and pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv_version=0.13.9

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What this machine lacks, as Debian's package names. Each library is tried, whatever the distribution; EGL counts
# only with a driver behind it (Mesa's renders in software), for libEGL.so.1 alone loads and then cannot render.
missing_packages() {
  python3 - <<'PYTHON'
import ctypes
from ctypes import CFUNCTYPE, POINTER, byref, c_int, c_uint, c_void_p


def loads(*names):
    try:
        for name in names:
            ctypes.CDLL(name)
    except OSError:
        return False
    return True


def egl_renders():
    """Whether one EGL device initialises: what MuJoCo asks of EGL before it renders without a screen."""
    egl = ctypes.CDLL("libEGL.so.1")
    egl.eglGetProcAddress.restype = c_void_p
    query, display = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display:
        return False
    devices, count = (c_void_p * 16)(), c_int()
    CFUNCTYPE(c_uint, c_int, POINTER(c_void_p), POINTER(c_int))(query)(16, devices, byref(count))
    get_display = CFUNCTYPE(c_void_p, c_uint, c_void_p, c_void_p)(display)
    platform_device = 0x313F  # EGL_PLATFORM_DEVICE_EXT
    displays = (get_display(platform_device, device, None) for device in devices[: count.value])
    return any(egl.eglInitialize(c_void_p(shown), None, None) for shown in displays if shown)


missing = []
if not loads("libglib-2.0.so.0", "libgthread-2.0.so.0"):
    missing += ["libglib2.0-0"]
if not loads("libGL.so.1"):
    missing += ["libgl1"]
if not loads("libEGL.so.1"):
    missing += ["libegl1", "libgl1-mesa-dri"]
elif not egl_renders():
    missing += ["libegl-mesa0", "libgl1-mesa-dri"]
try:
    import ensurepip, venv
except ImportError:
    missing += ["python3-venv"]
print(*missing)
PYTHON
}

command -v python3 >/dev/null || fail "python3 is missing; install python3, python3-venv and python3-pip (Debian's names)"

missing=$(missing_packages 2>/dev/null) || fail "could not try the system's libraries with python3"
if [ -n "$missing" ]; then
  install="apt-get install -y --no-install-recommends $missing"
  command -v apt-get >/dev/null ||
    fail "libraries are missing; install what your system calls these packages of Debian's: $missing"
  [ "$(id -u)" = 0 ] || fail "system packages are missing. Run this once, then run me again:
    sudo apt-get update && sudo $install"
  say "installs system packages with apt-get: $missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  $install -qq -o Dpkg::Use-Pty=0 >/dev/null
  still=$(missing_packages 2>/dev/null)
  [ -z "$still" ] || fail "installed $missing, and still cannot load: $still"
fi

if [ "$(.tools/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$uv_version" ]; then
  say "installs uv $uv_version into .tools/"
  python3 -m venv --clear .tools
  .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
fi

# The environment is this checkout's .venv, whatever the caller has activated; the largest wheels pass 500 MB.
unset VIRTUAL_ENV UV_PYTHON
export UV_PROJECT_ENVIRONMENT=.venv UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
if [ ! -x .venv/bin/python ]; then
  say "installs the packages of uv.lock into .venv/ (about 8 GB on disk; torch brings its GPU libraries)"
  .tools/bin/uv python find --quiet --no-python-downloads >/dev/null 2>&1 ||
    say "vidssl needs Python 3.11 or 3.12 and none is here; uv downloads one (or install one and run me again)"
fi
.tools/bin/uv sync --frozen --inexact || fail "the packages could not be installed; uv says why above"
say "ready: .venv/bin/vidssl --help"
