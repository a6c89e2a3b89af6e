// One choice of a completion_job, private to its files.
#pragma once

#include "api/completion_job.hpp"

namespace troupe::api {

struct completion_job::choice {
  choice(std::uint32_t i, const answer_plan::prompt& p, const model::tokenizer& t,
         const choice_options& o)
      : index(i), prompt(p), output(t, o) {}

  std::uint32_t index;
  const answer_plan::prompt& prompt;
  choice_output output;
  request_id id{};
  bool admitted = false;
  bool closed = false;  // the client's view is complete
  bool ended = false;   // the service's is
  bool echoed = false;
  std::string finish_reason;
  std::chrono::steady_clock::time_point last_token{};
  actors::generation_end end;
  std::vector<logprob_entry> prompt_entries;
  std::size_t prompt_points = 0;  // length of the echoed text, in code points
  std::optional<tool_call_parser> parser;
  std::vector<tool_call> calls;  // of a stream without their arguments
  // Of an answer that is not streamed; of a stream with tools, those not sent yet.
  std::vector<logprob_entry> entries;
  std::string text;
};

}  // namespace troupe::api
