#!/bin/sh
# Make the environment in which `make device` runs: environment.sh PYTHON FOLDER [DEVICE]
#
# Which jax a device needs its owner knows. The environment sees what PYTHON has and takes its jax,
# without a network where nothing else is missing; DEVICE (cuda12, tpu or cpu) installs one. The
# native kernels are for CPUs: no minute is spent on compiling them.
set -eu
python=$1 folder=$2 device=${3:-}
case $device in
  "" | cuda12 | tpu | cpu) ;;
  *) echo "DEVICE: must be cuda12, tpu or cpu, got $device" >&2; exit 2 ;;
esac

"$python" -m venv --clear --without-pip --system-site-packages "$folder"
own=$folder/bin/python
# Where PYTHON is of an environment itself, venv shows what is outside of it, not what is in it.
"$python" -c "import site; print(*(f'import site; site.addsitedir({each!r})' for each in site.getsitepackages()), sep='\n')" \
  > "$("$own" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/of_python.pth"

has() { "$own" -c "import $1" 2> /dev/null; }
install() { CC=false CXX=false "$own" -m pip --disable-pip-version-check install "$@"; }

has pip || "$own" -m ensurepip
if [ -n "$device" ]; then
  grep -v ^libtpu constraints.txt > "$folder/constraints.txt" # jax[tpu] wants a version of its own.
  case $device in cpu) jax=jax ;; *) jax="jax[$device]" ;; esac
  install --constraint "$folder/constraints.txt" --editable '.[device]' "$jax"
elif has jax,flax,optax,matplotlib,tqdm; then
  install --no-deps --no-build-isolation --no-index --editable .
elif has jax; then
  install --editable '.[device]'
else
  echo "make device: $python has no jax; name the one to install: DEVICE=cuda12, tpu or cpu" >&2
  exit 2
fi
