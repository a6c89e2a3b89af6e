#include "gpu/host/thread_pool.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

#include "base/result.hpp"

namespace troupe::gpu::host {
namespace {

constexpr std::uint64_t pack(std::uint32_t number, std::uint32_t tasks) {
  return std::uint64_t{number} << 32 | std::uint64_t{tasks} << 16;
}
constexpr std::uint32_t number_of(std::uint64_t s) {
  return static_cast<std::uint32_t>(s >> 32);
}
constexpr std::uint32_t tasks_of(std::uint64_t s) {
  return (s >> 16) & 0xffff;
}
constexpr std::uint32_t next_of(std::uint64_t s) {
  return s & 0xffff;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Long enough for the end of a neighbour's task in a decode step, short enough to leave the core to others.
constexpr auto spin_time = std::chrono::microseconds(20);

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) {
  static_assert(sizeof word == 4);
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace

thread_pool::thread_pool(unsigned num_threads) {
  for (unsigned w = 1; w < num_threads; ++w) threads_.emplace_back([this, w] { worker_loop(w); });
}

thread_pool::~thread_pool() {
  stop_.store(true);
  wake();
  for (auto& t : threads_) t.join();
}

void thread_pool::run(std::span<const phase> program) {
  if (program.empty()) return;
  for (const phase& p : program) TROUPE_ASSERT(p.tasks > 0 && p.tasks <= tasks_max);
  program_ = program;
  // The number after the last program's end, which no worker can mistake for a phase of it.
  base_ = number_of(state_.load(std::memory_order_relaxed)) + 1;
  const std::uint32_t end = base_ + static_cast<std::uint32_t>(program.size());
  begin(base_);
  for (;;) {
    const std::uint64_t seen = state_.load(std::memory_order_acquire);
    if (number_of(seen) == end) return;
    if (!work_once(0)) wait_for_change(seen);
  }
}

bool thread_pool::work_once(std::uint32_t worker) {
  std::uint64_t s = state_.load(std::memory_order_acquire);
  while (next_of(s) < tasks_of(s)) {
    if (state_.compare_exchange_weak(s, s + 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      const std::uint32_t number = number_of(s);
      const phase& p = program_[number - base_];
      p.run(p.context, p.layer, next_of(s), worker, number);
      finish_task(number);
      return true;
    }
  }
  return false;
}

void thread_pool::finish_task(std::uint32_t number) {
  const std::uint32_t tasks = program_[number - base_].tasks;
  if (ended_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks) begin(number + 1);
}

// Only the thread that ended the last task of the phase before (or run, between programs) comes here.
void thread_pool::begin(std::uint32_t number) {
  ended_.store(0, std::memory_order_relaxed);
  const std::uint32_t index = number - base_;
  const std::uint32_t tasks = index < program_.size() ? program_[index].tasks : 0;
  state_.store(pack(number, tasks), std::memory_order_seq_cst);
  wake();
}

void thread_pool::wake() {
  sequence_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) futex_wake_all(sequence_);
}

void thread_pool::wait_for_change(std::uint64_t seen) {
  const auto phase_is_over = [&] {
    const std::uint64_t s = state_.load(std::memory_order_acquire);
    return number_of(s) != number_of(seen) || next_of(s) < tasks_of(s) ||
           stop_.load(std::memory_order_relaxed);
  };
  const auto end = std::chrono::steady_clock::now() + spin_time;
  do {
    for (int k = 0; k < 32; ++k) {
      if (phase_is_over()) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t ticket = sequence_.load(std::memory_order_seq_cst);
  if (!phase_is_over()) futex_wait(sequence_, ticket);
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

void thread_pool::worker_loop(std::uint32_t worker) {
  while (!stop_.load(std::memory_order_relaxed)) {
    const std::uint64_t seen = state_.load(std::memory_order_acquire);
    if (!work_once(worker)) wait_for_change(seen);
  }
}

}  // namespace troupe::gpu::host
