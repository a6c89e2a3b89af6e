#include "api/completion_client.hpp"

#include "api/sse.hpp"

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;

double seconds(clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

// State of one stream.
struct reader {
  streamed_answer answer;
  sse_parser parser;
  bool done = false;
  std::string failure;

  // false: the caller stops.
  bool take(const std::string& data, const std::function<bool(std::string_view)>& on_text) {
    if (data == "[DONE]") return done = true;
    const auto chunk = nlohmann::json::parse(data, nullptr, false);
    if (!chunk.is_object()) {
      failure = "the server sent a malformed event";
      return false;
    }
    if (chunk.contains("error")) {
      failure = chunk["error"].is_object() ? chunk["error"].value("message", "error") : "error";
      return false;
    }
    if (chunk.contains("trace")) answer.trace = chunk["trace"];
    if (chunk.contains("usage") && chunk["usage"].is_object()) {
      answer.prompt_tokens = chunk["usage"].value("prompt_tokens", 0u);
      answer.completion_tokens = chunk["usage"].value("completion_tokens", 0u);
    }
    if (!chunk.contains("choices") || chunk["choices"].empty()) return true;
    const auto& choice = chunk["choices"][0];
    if (choice.contains("finish_reason") && choice["finish_reason"].is_string())
      answer.finish_reason = choice["finish_reason"].get<std::string>();
    std::string text;
    if (choice.contains("text") && choice["text"].is_string())
      text = choice["text"].get<std::string>();
    else if (choice.contains("delta") && choice["delta"].contains("content") &&
             choice["delta"]["content"].is_string())
      text = choice["delta"]["content"].get<std::string>();
    if (text.empty()) return true;
    answer.arrivals.push_back(clock::now());
    answer.text += text;
    return !on_text || on_text(text);
  }
};

}  // namespace

double streamed_answer::ttft() const {
  return arrivals.empty() ? 0 : seconds(arrivals.front() - started);
}
double streamed_answer::e2el() const {
  return seconds(ended - started);
}
double streamed_answer::tpot() const {
  if (arrivals.empty() || completion_tokens < 2) return 0;
  return seconds(arrivals.back() - arrivals.front()) / (completion_tokens - 1);
}

result<streamed_answer> stream_completion(const completion_call& call,
                                          const std::function<bool(std::string_view)>& on_text) {
  client_request request;
  request.method = "POST";
  request.path = call.path;
  request.key = call.key;
  request.timeout = call.timeout;
  auto body = call.body;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  request.body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  reader r;
  r.answer.started = clock::now();
  auto response = send_request(call.to, request, [&](std::string_view bytes) {
    r.parser.push(bytes);
    while (auto data = r.parser.next())
      if (!r.take(*data, on_text)) return false;
    return true;
  });
  r.answer.ended = clock::now();
  if (!r.failure.empty()) return fail(ec::io_error, r.failure);
  if (!response && response.error().code == ec::canceled) {
    r.answer.finish_reason = "stopped";
    return std::move(r.answer);
  }
  if (!response) return tl::unexpected(response.error());
  if (response->status != 200)
    return fail(response->status == 503 ? ec::overloaded : ec::invalid_argument,
                error_message(*response));
  if (!r.done) return fail(ec::io_error, "the answer broke off");
  return std::move(r.answer);
}

}  // namespace troupe::api
