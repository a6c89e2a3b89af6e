#include "api/frontend_metrics.hpp"

#include <prometheus/text_serializer.h>

namespace troupe::api {
namespace {

using buckets = prometheus::Histogram::BucketBoundaries;

constexpr std::array<std::string_view, num_endpoints> endpoint_names{
    "chat_completions", "completions", "models", "tokenize", "detokenize",
    "health",           "ready",       "live",   "metrics",  "version",
    "cluster",          "ui",          "other"};

constexpr std::array statuses{200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504};

// Codes of errors, and finer names where one code has several causes; invalid_request and internal_error are all others.
constexpr std::array rejection_reasons{
    "queue_full",         "overloaded",           "out_of_memory",     "too_many_at_once",
    "server_is_starting", "server_is_draining",   "no_worker",         "request_canceled",
    "deadline_exceeded",  "worker_lost",          "internal_error",    "context_length_exceeded",
    "model_not_found",    "request_ends_workers", "unsupported_value", "invalid_api_key",
    "admin_key_required", "origin_not_allowed",   "request_too_large", "unknown_url",
    "invalid_request"};

// Docs: users.md B2 of the project's notes: vLLM's buckets for the first token, SGLang's between tokens, with finer
// ones in front for small fast models.
const buckets ttft_buckets{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                           1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const buckets itl_buckets{.0005, .001, .002, .004, .006, .008, .010, .015, .020,
                          .025,  .030, .035, .040, .060, .080, .1,   .2,   .4,
                          .6,    .8,   1,    2,    4,    6,    8};
const buckets compile_buckets{.0001, .0003, .001, .003, .01, .03, .1, .3, 1};
const buckets duration_buckets{.01, .025, .05, .1, .2, .3, .5, .8,  1,   1.5, 2,   2.5,  5,
                               10,  15,   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};

}  // namespace

std::string_view to_string(endpoint e) {
  return endpoint_names[static_cast<std::size_t>(e)];
}

frontend_metrics::frontend_metrics(const prometheus::Labels& constant) {
  auto& registry = *registry_;
  auto counter = [&](const char* name,
                     const char* help) -> prometheus::Family<prometheus::Counter>& {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(constant).Register(registry);
  };
  auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Labels(constant).Register(registry).Add(
        {});
  };
  auto histogram = [&](const char* name,
                       const char* help) -> prometheus::Family<prometheus::Histogram>& {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(constant).Register(registry);
  };

  auto& requests = counter("troupe_requests_total", "HTTP requests by endpoint and status");
  auto& durations = histogram("troupe_request_duration_seconds",
                              "From a request's last byte to its answer's end");
  for (std::size_t i = 0; i < num_endpoints; ++i) {
    const std::string name(endpoint_names[i]);
    for (int status : statuses)
      requests_[{static_cast<endpoint>(i), status}] =
          &requests.Add({{"endpoint", name}, {"code", std::to_string(status)}});
    duration_[i] = &durations.Add({{"endpoint", name}}, duration_buckets);
  }
  ttft_ = &histogram("troupe_time_to_first_token_seconds", "From a request to its first token")
               .Add({}, ttft_buckets);
  itl_ = &histogram("troupe_inter_token_latency_seconds", "Between tokens of one choice")
              .Add({}, itl_buckets);
  prompt_tokens =
      &counter("troupe_prompt_tokens_total", "Prompt tokens of admitted requests").Add({});
  generation_tokens =
      &counter("troupe_generation_tokens_total", "Tokens that clients were given").Add({});
  client_disconnects =
      &counter("troupe_client_disconnects_total", "Generations whose client left before the end")
           .Add({});
  http_request_bytes =
      &counter("troupe_http_request_bytes_total", "Bytes of request bodies").Add({});
  requests_in_flight =
      gauge("troupe_requests_in_flight", "Generation requests that are not answered yet");
  requests_queued =
      gauge("troupe_requests_queued", "Generation requests that no decode node has admitted yet");
  auto& rejections = counter("troupe_requests_rejected_total",
                             "Requests that were answered by an error, by its cause");
  for (const char* reason : rejection_reasons)
    rejections_[reason] = &rejections.Add({{"reason", reason}});
  auto& forms = counter("troupe_answer_forms_total",
                        "Generation requests by the form that their answers must have");
  for (std::size_t i = 0; i < num_forms; ++i)
    for (const bool kept : {false, true})
      forms_[i][kept] = &forms.Add({{"form", std::string(engine::structured::format_kind_names[i])},
                                    {"outcome", kept ? "kept" : "refused"}});
  form_compile_ = &histogram("troupe_answer_form_compile_seconds",
                             "Time to make an automaton's grammar of a form, or to refuse it")
                       .Add({}, compile_buckets);
}

void frontend_metrics::form_checked(engine::structured::format_kind form, bool kept,
                                    double seconds) {
  forms_.at(static_cast<std::size_t>(form))[kept]->Increment();
  form_compile_->Observe(seconds);
}

void frontend_metrics::free_answer() {
  forms_[static_cast<std::size_t>(engine::structured::format_kind::text)][true]->Increment();
}

prometheus::Counter& frontend_metrics::requests(endpoint e, int status) {
  auto found = requests_.find({e, status});
  // Statuses are ours, so each is in the list; one that was forgotten must not be lost.
  return found != requests_.end() ? *found->second : *requests_.at({e, 500});
}

void frontend_metrics::answered(endpoint e, int status, double seconds) {
  requests(e, status).Increment();
  duration_[static_cast<std::size_t>(e)]->Observe(seconds);
}

void frontend_metrics::first_token(double seconds) {
  ttft_->Observe(seconds);
}

void frontend_metrics::next_tokens(double seconds_since_last, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    itl_->Observe(seconds_since_last / static_cast<double>(count));
}

void frontend_metrics::rejected(const api_error& e) {
  auto found = rejections_.find(e.reason.empty() ? e.code : e.reason);
  if (found == rejections_.end())
    found = rejections_.find(e.status < 500 ? "invalid_request" : "internal_error");
  found->second->Increment();
}

std::string frontend_metrics::text() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace troupe::api
