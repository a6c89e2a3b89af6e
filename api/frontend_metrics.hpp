// What the doors count, for Prometheus. Every family and label value exists from the start, so rates begin at zero.
// Label values that come from requests are bounded: unknown paths are "other". Any thread.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "api/errors.hpp"
#include "engine/structured/answer_format.hpp"

namespace troupe::api {

enum class endpoint : std::uint8_t {
  chat_completions,
  completions,
  models,
  tokenize,
  detokenize,
  health,
  ready,
  live,
  metrics,
  version,
  cluster,
  ui,
  other
};
inline constexpr std::size_t num_endpoints = 13;
inline constexpr std::size_t num_forms =
    static_cast<std::size_t>(engine::structured::format_kind::tool_calls) + 1;
std::string_view to_string(endpoint e);

class frontend_metrics {
 public:
  explicit frontend_metrics(const prometheus::Labels& constant = {});

  void answered(endpoint e, int status, double seconds);
  // Of an answer's first and later tokens, as they reach the door.
  void first_token(double seconds);
  void next_tokens(double seconds_since_last, std::size_t count);
  // A request that is answered by an error, whoever refused it: the one place where they are counted.
  void rejected(const api_error& e);

  // A form of answer that was asked for: whether it is kept or refused, and how long that took to find out.
  void form_checked(engine::structured::format_kind form, bool kept, double seconds);
  void free_answer();  // none was asked for

  std::string text() const;

  prometheus::Counter *prompt_tokens, *generation_tokens, *client_disconnects, *http_request_bytes;
  prometheus::Gauge *requests_in_flight, *requests_queued;

 private:
  prometheus::Counter& requests(endpoint e, int status);

  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::map<std::pair<endpoint, int>, prometheus::Counter*>
      requests_;  // immutable after construction
  std::array<prometheus::Histogram*, num_endpoints> duration_{};
  prometheus::Histogram *ttft_, *itl_;
  std::map<std::string, prometheus::Counter*, std::less<>> rejections_;
  std::array<std::array<prometheus::Counter*, 2>, num_forms> forms_{};  // [form][kept]
  prometheus::Histogram* form_compile_;
};

}  // namespace troupe::api
