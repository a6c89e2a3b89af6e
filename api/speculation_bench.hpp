// What speculation brings: texts that repeat themselves (edits, summaries, code repairs), prose, and random text, each
// decoded plain and with drafts in turn, by the same runner, and their tokens compared. One thread.
//
// With a device of one thread, its CPU time counts instead of the wall clock: other programs on the machine disturb less.
// What a draft model computes does not count then, as if it had a device of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "engine/speculation.hpp"
#include "gpu/model_runner.hpp"
#include "model/model.hpp"

namespace troupe::api {

struct speculation_speed {
  std::string workload;
  // Of guesses: text, branches (the same, several of a token), history (the same and earlier answers
  // of the workload), draft (always on), both (text, branches and draft, as served).
  std::string source;
  std::uint32_t parallel = 1;         // sequences decoded together
  double plain = 0, speculative = 0;  // tokens a second of decoding: all tokens by all the time
  // How much faster single prompts are.
  std::uint32_t prompts = 0;
  double median = 0, lowest = 0, highest = 0;
  double drafted = 0, accepted = 0;       // tokens a token generated
  double branches = 0, branches_won = 0;  // second guesses checked a token, and of use
  std::uint32_t answers = 0, equal = 0;   // of one repetition, and how many are the plain ones
};

struct draft_choice {
  std::shared_ptr<const model::loaded_model> model;  // null: no draft is compared
  std::chrono::milliseconds delay{0};                // of a link to it, each way
  gpu::runner_options runner;
};

struct speculation_test {
  engine::speculation_options speculation;
  std::uint32_t tokens = 128;  // of an answer at most
  std::vector<std::uint32_t> parallel{1};
  // Of everything, as long as `most_time` is not expected to be exceeded; one always.
  std::uint32_t repetitions = 1;
  std::chrono::seconds most_time{300};
  bool cpu_time = false;
  draft_choice draft;
  std::function<void(const std::string&)> progress = [](const std::string&) {};
};

// Each prompt plain and with guesses of each source, in turn.
result<std::vector<speculation_speed>> bench_speculation(gpu::model_runner& runner,
                                                         const model::loaded_model& model,
                                                         const speculation_test& test);

}  // namespace troupe::api
