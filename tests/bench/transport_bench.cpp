// KV pulls between two processes on this host: build/release/tests/bench_transport [block bytes ...]
#include <cstdio>
#include <cstdlib>

#include "transport/bench.hpp"

int main(int argc, char** argv) {
  std::vector<std::size_t> sizes;
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));
  if (sizes.empty()) sizes = {65'536, 368'704, 2'097'216};
  auto report = troupe::transport::bench_kv_report(sizes);
  if (!report) {
    std::fprintf(stderr, "%s\n", troupe::to_string(report.error()).c_str());
    return 1;
  }
  std::fputs(report->c_str(), stdout);
}
