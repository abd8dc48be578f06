#!/usr/bin/env bash
# Builds the library through which run.py calls oneDNN: bash benchmarks/build_onednn.sh FOLDER
# Needs pip, unzip, g++ and a network; prints the path for `run.py --onednn`.
set -euo pipefail
source=$(cd "$(dirname "$0")" && pwd)/onednn.cpp
mkdir -p "${1:?usage: build_onednn.sh FOLDER}" && cd "$1"
version=2023.2.0 # oneDNN 3.2, the last with OpenMP of GCC on PyPI
python -m pip download -q --no-deps -d wheels "onednn-cpu-gomp==$version" "onednn-devel-cpu-gomp==$version"
for wheel in wheels/*.whl; do unzip -q -o "$wheel" -d unpacked; done
library=$(dirname "$(find "$PWD/unpacked" -name libdnnl.so -print -quit)")
header=$(find "$PWD/unpacked" -path '*oneapi/dnnl/dnnl.hpp' -print -quit)
g++ -O2 -std=c++17 -shared -fPIC "$source" -I "${header%/oneapi/dnnl/dnnl.hpp}" -L "$library" -ldnnl \
    -Wl,-rpath,"$library" -o libpyrnn_onednn.so
echo "$PWD/libpyrnn_onednn.so"
