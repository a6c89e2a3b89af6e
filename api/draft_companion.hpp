// A draft model beside an engine, in this process, without actors: for measurements. Its passes run on a thread of their own,
// as in a node; a link's delay can be put between them, each way.
//
// Owner and thread: the bench's, which owns the engine too.
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "actors/driver_loop.hpp"
#include "base/result.hpp"
#include "engine/engine.hpp"
#include "model/model.hpp"

namespace troupe::api {

class draft_companion {
 public:
  static result<std::unique_ptr<draft_companion>> make(
      std::shared_ptr<const model::loaded_model> model, const gpu::runner_options& runner,
      std::uint32_t max_model_len, std::uint32_t max_sequences, std::chrono::milliseconds delay);
  ~draft_companion();

  // Between two steps of the engine: tells what is new, hands over what has arrived.
  void begin(const engine::generation_request& r);
  void exchange(engine::engine& e, const engine::events& happened);

 private:
  using time_point = std::chrono::steady_clock::time_point;
  struct sequence {
    std::vector<token_id> tokens;
    engine::draft_engine::beginning start;
    std::uint32_t told = 0;
  };
  struct told {
    time_point due;
    actors::draft_loop::command command;
  };
  struct arrived {
    time_point due;
    engine::draft_run run;
  };
  struct arena_deleter {
    void operator()(std::byte* p) const;
  };

  explicit draft_companion(std::chrono::milliseconds delay) : delay_(delay) {}
  void send(actors::draft_loop::command c);
  void follow(std::uint64_t id, sequence& s);

  const std::chrono::milliseconds delay_;
  std::unique_ptr<std::byte, arena_deleter> memory_;
  std::unique_ptr<gpu::model_runner> runner_;
  std::map<std::uint64_t, sequence> sequences_;
  std::deque<told> on_the_way_;
  std::mutex mutex_;
  std::deque<arrived> inbox_;
  std::unique_ptr<actors::draft_loop> loop_;  // last: its thread uses the others
};

}  // namespace troupe::api
