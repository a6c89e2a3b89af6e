// An engine on a fake device with a clock in hand, and the answer that a request has when it runs alone.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "engine/engine.hpp"
#include "tests/engine/fake_runner.hpp"

namespace troupe::engine::testing {

inline constexpr token_id end_of_text = 1;
inline constexpr hash128_t identity{11, 22};

inline engine_options small_options(const fake_runner& runner) {
  engine_options o;
  o.num_blocks = runner.num_blocks();
  o.vocab_size = runner.vocab_size();
  o.max_model_len = 4096;
  o.max_num_seqs = 8;
  o.max_num_batched_tokens = 64;
  o.max_prefill_chunk = 16;
  o.end_of_generation = {end_of_text};
  o.kv_identity = identity;
  o.owner_incarnation = 77;
  return o;
}

// What a client saw of one attempt.
struct answer {
  std::vector<token_output> tokens;
  std::vector<token_output> prompt_logprobs;
  std::vector<blocks_ready_event> blocks;
  std::optional<finished_event> end;
  bool lease_expired = false;

  std::vector<token_id> ids() const {
    std::vector<token_id> t;
    for (const auto& x : tokens) t.push_back(x.token);
    return t;
  }
};

class engine_fixture {
 public:
  explicit engine_fixture(std::uint32_t num_blocks, const fake_runner_options& runner_options = {},
                          const std::function<void(engine_options&)>& change = {})
      : runner(num_blocks, runner_options) {
    engine_options o = small_options(runner);
    // Passes take a time that depends only on how many there were: the same on every machine.
    o.pass_clock = [this] { return pass_time_ += std::chrono::milliseconds(3); };
    if (change) change(o);
    auto made = troupe::engine::engine::make(runner, runner.arena(), o);
    EXPECT_TRUE(made) << (made ? "" : to_string(made.error()));
    engine = std::move(*made);
  }

  void note(events&& e) {
    for (auto& x : e.prompt_logprobs)
      answers[{x.id, x.try_number}].prompt_logprobs = std::move(x.tokens);
    for (auto& x : e.tokens)
      for (auto& t : x.tokens) answers[{x.id, x.try_number}].tokens.push_back(std::move(t));
    for (auto& x : e.blocks_ready) answers[{x.id, x.try_number}].blocks.push_back(x);
    for (auto& x : e.leases_expired) answers[{x.id, x.try_number}].lease_expired = true;
    for (auto& x : e.finished) {
      auto& a = answers[{x.id, x.try_number}];
      EXPECT_FALSE(a.end) << "a request ended twice";
      a.end = std::move(x);
    }
  }

  step_report step() {
    auto r = engine->step(now);
    EXPECT_TRUE(r) << (r ? "" : to_string(r.error()));
    step_report report = std::move(*r);
    note(events(report.happened));
    EXPECT_EQ(engine->check_invariants(), "");
    return report;
  }

  // Steps while there is work; returns the number of steps.
  int run(int limit = 10'000) {
    int steps = 0;
    while (engine->has_work() && steps < limit) {
      step();
      now += std::chrono::milliseconds(1);
      ++steps;
    }
    EXPECT_LT(steps, limit) << "the engine does not come to rest";
    return steps;
  }

  answer& of(std::uint64_t id, attempt try_number = 0) {
    return answers[{request_id{id}, try_number}];
  }

  fake_runner runner;
  std::unique_ptr<troupe::engine::engine> engine;
  time_point now{std::chrono::hours(1)};
  std::map<std::pair<request_id, attempt>, answer> answers;

 private:
  time_point pass_time_{};
};

inline generation_request make_request(std::uint64_t id, std::vector<token_id> prompt,
                                       std::uint32_t max_tokens = 8) {
  generation_request r;
  r.id = request_id{id};
  r.prompt = std::move(prompt);
  r.sampling.temperature = 0;
  r.sampling.max_tokens = max_tokens;
  return r;
}

inline std::vector<token_id> make_prompt(std::uint64_t seed, std::uint32_t length,
                                         std::uint32_t vocab_size = 40) {
  std::vector<token_id> p;
  for (std::uint32_t i = 0; i < length; ++i)
    p.push_back(static_cast<token_id>(2 + mix(seed, i) % (vocab_size - 2)));
  return p;
}

// The same request, alone in a fresh engine with room for everything and without speculation.
inline answer run_alone(generation_request r, const fake_runner_options& runner_options = {}) {
  engine_fixture f(512, runner_options, [](engine_options& o) {
    o.max_num_batched_tokens = 1024;
    o.max_prefill_chunk = 1024;
    o.prefix_caching = false;
    o.speculation.max_tokens = 0;
  });
  r.deadline = time_point::max();
  const std::pair key{r.id, r.try_number};
  EXPECT_TRUE(f.engine->add(std::move(r), f.now));
  f.run();
  return f.answers[key];
}

}  // namespace troupe::engine::testing
