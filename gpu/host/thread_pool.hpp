// Workers that run a program of phases: every task of a phase ends before the next phase begins.
//
// Owner: host_runner; run() from one thread, which works too. Tasks are claimed one by one, and a phase ends when its
// tasks have ended, not when every worker has looked at it: a worker that the scheduler has put aside (prefill and
// decode processes share cores) holds up nobody unless it is inside a task. Who waits spins for some microseconds,
// then sleeps on a futex.
//
// One 64-bit word is the whole state: {phase number 32, tasks of the phase 16, next task 16}. Claiming is a
// compare-and-swap on it, so that a late worker can never take a task of a phase that is over; phase numbers never
// come back within 2^32 phases.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace troupe::gpu::host {

struct phase {
  // Runs task `task` of `tasks` on worker `worker`; `context` and `layer` as given.
  void (*run)(void* context, std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
              std::uint32_t serial);
  void* context;
  std::uint32_t layer;
  std::uint32_t tasks;  // 1 .. tasks_max
};

class thread_pool {
 public:
  static constexpr std::uint32_t tasks_max = 65535;

  explicit thread_pool(unsigned num_threads);
  ~thread_pool();
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  unsigned size() const { return static_cast<unsigned>(threads_.size()) + 1; }
  // Returns when the last phase has ended. The caller is worker 0. `serial` of a task is unique for its phase.
  void run(std::span<const phase> program);

 private:
  bool work_once(std::uint32_t worker);  // claims and runs one task
  void finish_task(std::uint32_t number);
  void wait_for_change(std::uint64_t seen);
  void begin(std::uint32_t number);
  void wake();
  void worker_loop(std::uint32_t worker);

  alignas(64) std::atomic<std::uint64_t> state_{0};
  alignas(64) std::atomic<std::uint32_t> ended_{0};  // tasks of the phase that have ended
  alignas(64) std::atomic<std::uint32_t> sequence_{
      0};  // what sleepers wait on: changes with state_'s phase
  std::atomic<std::uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};

  std::span<const phase> program_;
  std::uint32_t base_ = 0;  // phase number of program_[0]
  std::vector<std::thread> threads_;
};

}  // namespace troupe::gpu::host
