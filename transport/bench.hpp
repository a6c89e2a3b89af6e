// How fast blocks move: this process reads from one that it forks, over each path, beside what the machine and UCX's
// own ucx_perftest reach in the same minute. Behind `troupe bench kv` and tests/bench/transport_bench.cpp.
//
// Call it from a process that has no other threads yet: it forks.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "transport/fabric.hpp"

namespace troupe::transport {

// What the pulls' memory has been through. warm: both sides' pages are there, as after some minutes of service. fresh: the
// reader has just begun, so each page of its arena is written, and each of the owner's read, for the first time.
// prepared: the same, of a reader that had a moment to make pages ahead (page_toucher.hpp), as nodes do.
enum class bench_memory { warm, fresh, prepared };

struct kv_bench_options {
  path via = path::shm;               // shm or tcp
  std::size_t block_bytes = 368'704;  // payload and fence
  std::size_t arena_bytes = 256 << 20;
  std::size_t blocks_per_pull = 16;
  std::size_t pulls_under_way = 4;
  bool checksum = true;
  bool verify = false;  // verify() every block, as an engine would
  bench_memory memory = bench_memory::warm;
  std::chrono::milliseconds duration{300};  // of warm pulls; the others end with the arena
};

struct kv_bench_result {
  double gigabytes_per_second = 0;
  double pull_p50_us = 0, pull_p99_us = 0;  // of one pull, queueing included
  std::uint64_t pulls = 0, fence_mismatches = 0;
};

// Walks the whole arena at random, so that neither side reads from its cache; if it is not warm, once from end to end.
result<kv_bench_result> bench_kv(const kv_bench_options& options);

// memcpy, one thread, over the same walk.
double memcpy_gigabytes_per_second(std::size_t block_bytes, std::size_t arena_bytes);

// ucx_perftest -t ucp_get between two processes on this host; nothing if the program is not installed. It reads the
// same buffer again and again, `bytes` at a time, `outstanding` at once. `fresh`: one read, the buffer's first use.
std::optional<double> ucx_perftest_get(path via, std::size_t bytes, unsigned outstanding,
                                       bool fresh = false);

// The checksum alone, over memory that no cache holds.
double checksum_gigabytes_per_second(std::size_t block_bytes, std::size_t arena_bytes);

// A table for people of the above for several block sizes.
result<std::string> bench_kv_report(const std::vector<std::size_t>& block_bytes);

}  // namespace troupe::transport
