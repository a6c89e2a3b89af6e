#include "gpu/host/thread_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace troupe::gpu::host {
namespace {

struct counters {
  std::atomic<int> now{0};  // phases that have begun to run
  std::atomic<int> ran[64] = {};
  std::atomic<bool> overlap{false};
  static constexpr std::uint32_t tasks = 7;
};

void count(void* context, std::uint32_t layer, std::uint32_t task, std::uint32_t, std::uint32_t) {
  auto& c = *static_cast<counters*>(context);
  // Every task of the phases before has ended.
  for (std::uint32_t before = 0; before < layer; ++before)
    if (c.ran[before] != static_cast<int>(counters::tasks)) c.overlap = true;
  if (task < counters::tasks) ++c.ran[layer];
}

TEST(thread_pool, phases_run_whole_and_in_order) {
  for (const unsigned threads : {1u, 2u, 3u, 5u}) {
    thread_pool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      counters c;
      std::vector<phase> program;
      for (std::uint32_t k = 0; k < 64; ++k) program.push_back({count, &c, k, counters::tasks});
      pool.run(program);
      for (const auto& n : c.ran) ASSERT_EQ(n, 7);
      ASSERT_FALSE(c.overlap);
    }
  }
}

TEST(thread_pool, workers_sleep_when_there_is_nothing_to_do) {
  thread_pool pool(3);
  counters c;
  const phase one{count, &c, 0, 1};
  pool.run(std::span(&one, 1));
  const auto used = [] {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  // On a busy machine they may fall asleep late: spinning threads would never be quiet.
  double least = 1;
  for (int i = 0; i < 50 && least >= 0.02; ++i) {
    const double before = used();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    least = std::min(least, used() - before);
  }
  EXPECT_LT(least, 0.02);  // of 0.6 s that three spinning threads would use
}

TEST(thread_pool, an_empty_program_ends_at_once) {
  thread_pool pool(2);
  pool.run({});
  counters c;
  const phase one{count, &c, 0, 7};
  pool.run(std::span(&one, 1));
  EXPECT_EQ(c.ran[0], 7);
}

}  // namespace
}  // namespace troupe::gpu::host
