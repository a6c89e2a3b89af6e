#include "gpu/host/cpu.hpp"

#include <sched.h>

#include <cmath>
#include <fstream>
#include <string>
#include <thread>

namespace troupe::gpu::host {
namespace {

struct isa_entry {
  std::string_view name;
  bool (*supported)();
  const kernel_table& (*kernels)();
};

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avxvnni() {
  return has_avx2() && __builtin_cpu_supports("avxvnni");
}
bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif
bool always() {
  return true;
}

// Best first.
constexpr isa_entry isas[] = {
#if defined(__x86_64__)
    {"avx512vnni", has_avx512vnni, kernels_avx512},
    {"avxvnni", has_avxvnni, kernels_avxvnni},
    {"avx2", has_avx2, kernels_avx2},
    {"vnni256", has_avx512vnni, kernels_vnni256},
#endif
    {"portable", always, kernels_portable},
};

// cgroup v2: "max 100000" or "<quota> <period>" in microseconds.
double control_group_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return HUGE_VAL;
  return std::strtod(quota.c_str(), nullptr) / period;
}

}  // namespace

result<const kernel_table*> choose_kernels(std::string_view isa) {
  for (const isa_entry& e : isas) {
    if (isa == "auto" ? e.supported() : isa == e.name) {
      if (!e.supported()) {
        return fail(ec::unsupported, "this CPU lacks the instructions of '" + std::string(isa) +
                                         "': leave the instruction set at auto");
      }
      return &e.kernels();
    }
  }
  return fail(ec::invalid_argument,
              "instruction set '" + std::string(isa) +
                  "' is unknown: use auto, avx512vnni, avxvnni, avx2 or portable");
}

unsigned available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  unsigned cores = std::thread::hardware_concurrency();
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = static_cast<unsigned>(CPU_COUNT(&set));
  const double quota = control_group_cores();
  if (quota < cores) cores = static_cast<unsigned>(std::ceil(quota));
  return cores == 0 ? 1 : cores;
}

}  // namespace troupe::gpu::host
