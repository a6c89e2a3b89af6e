// Streams one answer from an OpenAI-compatible server, with the times of its tokens. For run, chat and bench.
// One thread each.
#pragma once

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/http_client.hpp"

namespace troupe::api {

struct streamed_answer {
  std::string text;
  std::string finish_reason;
  std::uint32_t prompt_tokens = 0, completion_tokens = 0;
  nlohmann::json trace;  // null unless the server told
  std::chrono::steady_clock::time_point started{}, ended{};
  std::vector<std::chrono::steady_clock::time_point> arrivals;  // of chunks with text

  double ttft() const;  // seconds; 0 without text
  double e2el() const;
  double tpot() const;  // mean time of the tokens after the first
};

struct completion_call {
  url to;
  std::string path = "/v1/chat/completions";
  std::string key;
  nlohmann::json body;  // "stream" and "stream_options" are added
  std::chrono::milliseconds timeout{600'000};
};

// on_text: false stops. A stream that ends without [DONE] or with an error frame is an error.
result<streamed_answer> stream_completion(
    const completion_call& call, const std::function<bool(std::string_view)>& on_text = {});

}  // namespace troupe::api
