#!/bin/bash
# Correctness first, then figures, from a bundle (deploy/gpu_bundle/pack) on a machine that has a GPU:
#   build/gpu-bundle/run_on_device.sh [tests] [sanitize] [figures] [peers]     (default: tests figures)
# Each test suite is a process of its own with a time limit, so that one broken kernel does not hide the others.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp}
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ $# -gt 0 ] || set -- tests figures
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || { echo "no GPU here"; exit 1; }
failed=0
for phase in "$@"; do
  case $phase in
    tests)
      for suite in step_plan gemm_test attention_test rows_test dequantize_test runner_test model_test; do
        timeout 100 "$here/test_gpu_cuda" --gtest_filter="$suite.*" >"$out/$suite.log" 2>&1
        code=$?
        grep -E '^\[  (PASSED|FAILED|SKIPPED) |Failure' "$out/$suite.log" | sed "s/^/$suite: /" | head -20
        [ $code = 0 ] || { failed=1; echo "$suite: exit code $code"; grep -A6 Failure "$out/$suite.log" | head -40; }
      done ;;
    sanitize)
      for tool in memcheck racecheck; do
        timeout 150 compute-sanitizer --tool $tool --error-exitcode 9 "$here/test_gpu_cuda" \
          --gtest_filter='rows_test.*:attention_test.exact*:gemm_test.gate*:runner_test.argmax*' >"$out/$tool.log" 2>&1
        code=$?
        echo "$tool: exit code $code; $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$out/$tool.log" | tail -1)"
        [ $code = 0 ] || { failed=1; grep -m5 -A6 '=========' "$out/$tool.log"; }
      done ;;
    figures) timeout 300 "$here/bench_gpu_cuda" ${BENCH:-} 2>&1 | tee "$out/figures.txt" ;;
    peers) timeout 120 python3 "$here/peers.py" 2>&1 | tee "$out/peers.txt" ;;
  esac
done
exit $failed
