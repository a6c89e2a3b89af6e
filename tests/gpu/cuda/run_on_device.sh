#!/bin/bash
# Correctness first, then figures, from a bundle (deploy/gpu_bundle/pack) on a machine that has a GPU:
#   build/gpu-bundle/run_on_device.sh [tests] [sanitize] [figures] [peers] [kv] [kill] [disaggregated] [pulls] [staged] [decode]
#                                     [packed] [fourbit] [fp8]
#                                     [sampling]
# (default: tests figures). The KV phases, in order of worth: kv (fences, copies), kill (an owner killed while it is read),
# disaggregated (a prefill and a decode process answer as one does), pulls (every way to copy, then decode steps beside the
# best two; WAYS="fused:16x256 batched" chooses), staged, decode (the latter alone). With two GPUs the owner or prefill node
# is on the second, or on the first with SHARE=1. 4-bit weights: packed (tests), fourbit (figures of every ring, and of steps of one row). fp8: tests, figures. sampling: what
# choosing tokens costs, and how long the GPU idles between an engine's steps.
# Each test suite is a process of its own with a time limit, so that one broken kernel does not hide the others.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp}
[ ! -e "$here/programs.tar.xz" ] || [ -e "$here/test_gpu_cuda" ] || tar -C "$here" -xJf "$here/programs.tar.xz"
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
for model in "$here"/models/*.gguf; do [ -e "$model" ] && export TROUPE_TEST_GPU_MODEL=$model; done
[ $# -gt 0 ] || set -- tests figures
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || { echo "no GPU here"; exit 1; }
failed=0
gpus=$(nvidia-smi --list-gpus | wc -l)
[ "$gpus" -ge 2 ] && [ -z "${SHARE:-}" ] && devices=cuda:1,cuda:0 || devices=cuda:0,cuda:0
same=${SHARE:+same}
for phase in "$@"; do
  case $phase in
    tests)
      for suite in step_plan gemm_test attention_test rows_test sampling_test engine_test cuda_status cuda_device dequantize_test packed_test single_test runner_test fp8_test model_test; do
        timeout 100 "$here/test_gpu_cuda" --gtest_filter="$suite.*" >"$out/$suite.log" 2>&1
        code=$?
        grep -E '^\[  (PASSED|FAILED|SKIPPED) |Failure' "$out/$suite.log" | sed "s/^/$suite: /" | head -20
        [ $code = 0 ] || { failed=1; echo "$suite: exit code $code"; grep -A6 Failure "$out/$suite.log" | head -40; }
      done ;;
    sanitize)  # each test by each tool, 12 at a time
      check_one() {
        tool=$1 test=$2 log=$out/$1.$2.log program=$here/test_gpu_cuda
        [ $tool != racecheck ] || program=$here/test_gpu_racecheck
        [ -e "$program" ] || { echo "$tool $test: no $program: see deploy/gpu_bundle/pack"; return; }
        # A test asks for more memory than there is: an error of the API that is to be.
        [ $tool != memcheck ] || tool="memcheck --report-api-errors no"
        timeout 250 compute-sanitizer --tool $tool --error-exitcode 9 "$program" --gtest_filter="$test" >"$log" 2>&1
        code=$?
        [ $code = 0 ] && { echo "$1 $test: clean"; rm "$log"; return; }
        echo "$1 $test: exit code $code"; grep -m1 -A4 Failure "$log"; grep -m3 -A6 '=========' "$log"
      }
      export -f check_one; export here out
      # Without kernels, or (racecheck) too slow: choosing among 128,000 tokens takes minutes a pass.
      slow='sampling_test\.(every|thresholds)|samples_are_the_hosts|fused_norms|engine_test'
      "$here/test_gpu_cuda" --gtest_list_tests | awk '/^[a-z]/ {suite = $1} /^  / {print suite $1}' |
        grep -vE '^(step_plan|bf16_tiles|fp8_options|cuda_)' >"$out/all_tests"
      { sed 's/^/memcheck /' "$out/all_tests"; sed 's/^/initcheck /' "$out/all_tests"
        grep -vE "$slow" "$out/all_tests" | sed 's/^/racecheck /'; } |
        xargs -P 12 -L 1 bash -c 'check_one $0 $1' >"$out/sanitize.txt"
      grep -v ': clean$' "$out/sanitize.txt" && failed=1
      for tool in memcheck racecheck initcheck; do
        echo "$tool: $(grep -c "^$tool .*: clean$" "$out/sanitize.txt") tests clean"
      done ;;
    figures) timeout 300 "$here/bench_gpu_cuda" ${BENCH:-} 2>&1 | tee "$out/figures.txt" ;;
    profile)  # microseconds a kernel, in the pass; PROFILE names what to run
      timeout 200 ncu --clock-control none --cache-control none --metrics gpu__time_duration.sum --csv \
        --kernel-name 'regex:f8_kernel|quantize|wide|narrow|packed|unpack|attention|norm|rotary|embed|argmax' --launch-skip "${SKIP:-228}" --launch-count "${COUNT:-228}" \
        "$here/bench_gpu_cuda" ${PROFILE:-prefill:8192} >"$out/profile.csv" 2>&1
      python3 - "$out/profile.csv" <<'PY'
import collections, csv, re, sys
lines = [l for l in open(sys.argv[1]) if l.startswith('"')]
totals = collections.defaultdict(list)
for row in csv.DictReader(lines):
    name = re.sub(r'void |troupe::gpu::cuda::|\(anonymous namespace\)::|<unnamed>::|unnamed>::', '', row['Kernel Name']).split('(')[0]
    scale = {'nsecond': 1e-3, 'ns': 1e-3, 'usecond': 1, 'us': 1, 'msecond': 1e3, 'ms': 1e3}[row['Metric Unit']]
    totals[name + ' grid ' + row['Grid Size']].append(float(row['Metric Value'].replace(',', '')) * scale)
for name, t in sorted(totals.items(), key=lambda x: -sum(x[1])):
    print(f'{sum(t) / 1e3:9.2f} ms {len(t):5d} x {sum(t) / len(t):9.1f} us  {name}')
PY
      ;;
    kv)
      timeout 60 "$here/test_gpu_cuda" --gtest_filter='device_memory_test.*' >"$out/kv.log" 2>&1
      code=$?
      grep -E '^\[  (PASSED|FAILED|SKIPPED) |Failure' "$out/kv.log" | head -20
      [ $code = 0 ] || { failed=1; echo "kv: exit code $code"; grep -A8 Failure "$out/kv.log" | head -60; } ;;
    packed)
      timeout 60 "$here/test_gpu_cuda" --gtest_filter='packed_test.*:single_test.*:runner_test.*' >"$out/packed.log" 2>&1
      code=$?
      grep -E '^\[  (PASSED|FAILED|SKIPPED) |Failure' "$out/packed.log" | head -20
      [ $code = 0 ] || { failed=1; echo "packed: exit code $code"; grep -A8 Failure "$out/packed.log" | head -60; } ;;
    fp8)
      timeout 60 "$here/test_gpu_cuda" --gtest_filter='packed_test.f8*:fp8_test.*' >"$out/fp8.log" 2>&1
      code=$?
      grep -E '^\[  (PASSED|FAILED|SKIPPED) |Failure|relative' "$out/fp8.log" | head -20
      [ $code = 0 ] || { failed=1; echo "fp8: exit code $code"; grep -A8 Failure "$out/fp8.log" | head -60; }
      timeout "${LIMIT:-60}" "$here/bench_gpu_cuda" fp8 2>&1 | tee "$out/fp8.txt"
      code=${PIPESTATUS[0]}
      [ "$code" = 0 ] || { failed=1; echo "fp8: exit code $code" | tee -a "$out/fp8.txt"; } ;;
    fourbit)
      timeout "${LIMIT:-60}" "$here/bench_gpu_cuda" fourbit onerow 2>&1 | tee "$out/fourbit.txt"
      code=${PIPESTATUS[0]}
      [ "$code" = 0 ] || { failed=1; echo "fourbit: exit code $code" | tee -a "$out/fourbit.txt"; } ;;
    kill|pulls|staged|decode)
      timeout "${LIMIT:-100}" "$here/bench_gpu_kv" ${phase/pulls/pull decode} $same ${WAYS:-} 2>&1 | tee -a "$out/kv_figures.txt"
      code=${PIPESTATUS[0]}
      [ "$code" = 0 ] || { failed=1; echo "$phase: exit code $code" | tee -a "$out/kv_figures.txt"; } ;;
    disaggregated)  # the default model, cut; then a real shape
      for model in "$here"/models/*.gguf "--synthetic tiny" "--synthetic llama-3-8b"; do
        echo "== $model on $devices"
        timeout "${LIMIT:-100}" python3 "$here/disaggregated.py" "$here/troupe" "$devices" $model
        code=$?
        [ $code = 0 ] || { failed=1; echo "disaggregated, $model: exit code $code"; }
      done 2>&1 | tee -a "$out/disaggregated.txt"
      grep -q "exit code" "$out/disaggregated.txt" && failed=1 ;;
    sampling)
      timeout 120 "$here/bench_gpu_sampling" ${BENCH:-} 2>&1 | tee "$out/sampling.txt"
      code=${PIPESTATUS[0]}
      [ "$code" = 0 ] || { failed=1; echo "sampling: exit code $code" | tee -a "$out/sampling.txt"; } ;;
    peers) timeout 120 python3 "$here/peers.py" 2>&1 | tee "$out/peers.txt" ;;
  esac
done
exit $failed
