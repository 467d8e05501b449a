#!/usr/bin/env bash
# What must work with the oldest packages that pyproject.toml allows: smoke.sh FOLDER_OF_NOISY_KD.
# A training, its export to ONNX and int8, a sweep with its report, and an empty store.
set -euo pipefail
noisy_kd="$(cd "$1" && pwd)/noisy-kd"
export OMP_NUM_THREADS=1
cd "$(mktemp -d)"
short="trainer=cpu teacher.max_epochs=2 trainer.max_epochs=2 callbacks=quiet"
"$noisy_kd" train $short 'student.layers="[C3(S1P1)@8-MP2(S2)]-FC10"' hydra.run.dir=run
"$noisy_kd" export run --format onnx --with-preprocessing --int8 dynamic
"$noisy_kd" export run --format safetensors
"$noisy_kd" train -cn quick $short devices=1 seed=1,2 method.sigma=0,0.5
"$noisy_kd" report quick --plot quick.svg
"$noisy_kd" store clean
