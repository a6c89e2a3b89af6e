// One choice of an answer, from token ids to what the client sees: text that is valid UTF-8 at
// every step, stop strings cut out, end tokens hidden, logprobs released together with their text.
//
// The sum of all deltas does not depend on how tokens arrived. One stream, one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "api/stop_matcher.hpp"
#include "engine/generation.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {

struct logprob_entry {
  engine::token_output output;
  std::size_t text_offset = 0;  // in code points, of the answer's text
};

struct choice_delta {
  std::string text;
  std::vector<logprob_entry> logprobs;
  bool empty() const { return text.empty() && logprobs.empty(); }
};

struct choice_options {
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  std::vector<token_id> shown_special;  // all the same: those that mark calls of tools
  bool logprobs = false;
  bool ignore_eos = false;
  std::vector<token_id> stop_token_ids;
  std::uint32_t min_tokens = 0;  // stop strings do not count before
};

class choice_output {
 public:
  choice_output(const model::tokenizer& tokenizer, const choice_options& options);

  // After a stop string was found everything is ignored.
  choice_delta push(engine::token_output output);
  // What was withheld. Call once, at the end.
  choice_delta flush();

  bool stopped() const { return stops_.matched(); }
  std::uint32_t tokens() const { return tokens_; }  // counted until the stop, end tokens included

 private:
  bool is_end(token_id id) const;
  void take(std::string_view certain, bool final, choice_delta& to);

  const model::tokenizer& tokenizer_;
  const choice_options& options_;
  model::utf8_stream utf8_;
  stop_matcher stops_;
  std::uint32_t tokens_ = 0;
  std::size_t decoded_bytes_ = 0;   // of valid text made so far
  std::size_t released_bytes_ = 0;  // of it, given out
  std::size_t decoded_points_ = 0;  // as decoded_bytes_, in code points
  struct pending {
    logprob_entry entry;
    std::size_t begin = 0, end = 0;  // in bytes of the text
  };
  std::deque<pending> pending_;
};

std::size_t code_points(std::string_view utf8);

}  // namespace troupe::api
