#include "api/explanation.hpp"

#include <cstdio>

#include "api/status_table.hpp"

namespace troupe::api {
namespace {

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::string text_of(const nlohmann::json& o, const char* key) {
  auto found = o.find(key);
  return found != o.end() && found->is_string() ? found->get<std::string>() : std::string();
}
double number_of(const nlohmann::json& o, const char* key) {
  auto found = o.find(key);
  return found != o.end() && found->is_number() ? found->get<double>() : 0;
}

std::string pace(double bytes, double us) {
  return us > 0 ? format(", %.2f ms, %.2f GB/s", us / 1e3, bytes / us / 1e3) : "";
}

}  // namespace

std::string explain(const streamed_answer& a) {
  const auto& t = a.trace;
  std::vector<std::vector<std::string>> rows;
  if (t.is_object()) {
    const std::string prefill = text_of(t, "prefill_node"), decode = text_of(t, "decode_node");
    const double ms = number_of(t, "prefill_us") / 1e3, cached = number_of(t, "cached_tokens");
    rows.push_back({"router", text_of(t, "route_reason")});
    rows.push_back(
        {prefill.empty() ? decode : prefill,
         format("read the prompt: %u tokens", a.prompt_tokens) +
             (cached > 0 ? format(", %.0f of them from %s's cache", cached, decode.c_str()) : "") +
             (ms > 0 && prefill.empty() ? format(", %.1f ms", ms) : "")});
    const double bytes = number_of(t, "transfer_bytes"), us = number_of(t, "transfer_us");
    if (!prefill.empty())
      rows.push_back({"transfer", format("%.0f KV blocks pulled by %s, %.2f MB over %s",
                                         number_of(t, "blocks_pulled"), decode.c_str(), bytes / 1e6,
                                         text_of(t, "transfer_path").c_str()) +
                                      pace(bytes, us)});
    rows.push_back({decode, format("wrote the answer: %u tokens", a.completion_tokens) +
                                (number_of(t, "migrations") > 0
                                     ? format(", after %.0f moves", number_of(t, "migrations"))
                                     : "")});
  }
  rows.push_back({"first token", format("%.0f ms", a.ttft() * 1e3)});
  if (a.tpot() > 0) rows.push_back({"speed", format("%.1f tokens/s", 1 / a.tpot())});
  return align(rows);
}

}  // namespace troupe::api
