#include "api/capacity_files.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

namespace troupe::api {
namespace {

using actors::device_profile;
using nlohmann::json;

constexpr int profile_version = 1;
constexpr double longest_trace = 366.0 * 86'400;  // seconds

tl::unexpected<error> bad(const std::string& what) {
  return fail(ec::invalid_argument, what);
}

result<double> number(const json& object, const char* name, double low, double high) {
  const auto at = object.find(name);
  if (at == object.end()) return bad(std::string(name) + " is missing");
  if (!at->is_number()) return bad(std::string(name) + " must be a number");
  const double value = at->get<double>();
  if (!std::isfinite(value) || value < low || value > high) {
    std::ostringstream text;
    text << name << " must be in [" << low << ", " << high << "], not " << at->dump();
    return bad(text.str());
  }
  return value;
}

result<std::uint64_t> whole(const json& object, const char* name, double low, double high) {
  TROUPE_TRY(const double value, number(object, name, low, high));
  if (value != std::floor(value)) return bad(std::string(name) + " must be a whole number");
  return static_cast<std::uint64_t>(value);
}

result<std::vector<actors::rows_seconds>> table(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || !at->is_array())
    return bad(std::string(name) + " must be a list of [rows, seconds]");
  std::vector<actors::rows_seconds> out;
  for (const auto& pair : *at) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number() || !pair[1].is_number())
      return bad(std::string(name) + " must be a list of [rows, seconds]");
    out.push_back({pair[0].get<double>(), pair[1].get<double>()});
  }
  return out;
}

std::string text_of(const json& object, const char* name) {
  const auto at = object.find(name);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

}  // namespace

result<actors::trace_request> parse_trace_line(std::string_view line) {
  const auto object = json::parse(line, nullptr, false);
  if (!object.is_object()) return bad("not a JSON object");
  actors::trace_request r;
  TROUPE_TRY(const double ms, number(object, "timestamp", 0, longest_trace * 1000));
  r.arrival_seconds = ms / 1000;
  TROUPE_TRY(r.input_length, whole(object, "input_length", 1, 1 << 24));
  TROUPE_TRY(r.output_length, whole(object, "output_length", 1, 1 << 24));
  const auto ids = object.find("hash_ids");
  if (ids == object.end() || ids->is_null()) return r;
  if (!ids->is_array()) return bad("hash_ids must be a list");
  for (const auto& id : *ids) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0)
      return bad("hash_ids must be whole numbers that are not negative");
    r.hash_ids.push_back(id.get<std::uint64_t>());
  }
  return r;
}

result<std::vector<actors::trace_request>> read_trace(const std::filesystem::path& file,
                                                      double from, double to) {
  std::ifstream in(file);
  if (!in) return fail(ec::not_found, "the trace " + file.string() + " cannot be read");
  std::vector<actors::trace_request> out;
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto r = parse_trace_line(line);
    if (!r) return bad(file.string() + ":" + std::to_string(number) + ": " + r.error().detail);
    if (r->arrival_seconds < from || r->arrival_seconds >= to) continue;
    r->arrival_seconds -= from;
    out.push_back(std::move(*r));
  }
  if (in.bad()) return fail(ec::io_error, file.string() + " could not be read to its end");
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    return a.arrival_seconds < b.arrival_seconds;
  });
  return out;
}

result<device_profile> parse_profile(std::string_view text) {
  const auto object = json::parse(text, nullptr, false);
  if (!object.is_object()) return bad("not a JSON object");
  TROUPE_TRY(const auto version, whole(object, "troupe_profile", 0, 1e9));
  if (version != profile_version)
    return bad("troupe_profile is " + std::to_string(version) + "; this build reads version " +
               std::to_string(profile_version));
  device_profile p;
  p.name = text_of(object, "name"), p.source = text_of(object, "source");
  p.model = text_of(object, "model"), p.device = text_of(object, "device");
  if (const auto gpu = object.find("gpu"); gpu != object.end()) {
    if (!gpu->is_boolean()) return bad("gpu is neither true nor false");
    p.on_gpu = gpu->get<bool>();
  }
  TROUPE_TRY(p.prompt, table(object, "prompt"));
  TROUPE_TRY(p.decode, table(object, "decode"));
  TROUPE_TRY(p.prompt_context_seconds, number(object, "prompt_context_seconds", 0, 1));
  TROUPE_TRY(p.decode_context_seconds, number(object, "decode_context_seconds", 0, 1));
  TROUPE_TRY(p.turn_seconds, number(object, "turn_seconds", 0, 3600));
  TROUPE_TRY(p.block_tokens, whole(object, "block_tokens", 1, 4096));
  TROUPE_TRY(p.block_bytes, whole(object, "block_bytes", 1, 1e12));
  TROUPE_TRY(p.num_blocks, whole(object, "num_blocks", 4, 1 << 24));
  TROUPE_TRY(p.max_model_len, whole(object, "max_model_len", 2, 1 << 28));
  TROUPE_TRY(p.link_bytes_per_second, number(object, "link_bytes_per_second", 1, 1e15));
  TROUPE_TRY(p.link_latency_seconds, number(object, "link_latency_seconds", 0, 3600));
  TROUPE_TRY(p.message_seconds, number(object, "message_seconds", 0, 3600));
  TROUPE_TRY(p.request_seconds, number(object, "request_seconds", 0, 3600));
  TROUPE_CHECK(validate(p));
  return p;
}

result<device_profile> read_profile(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return fail(ec::not_found, "the profile " + file.string() + " cannot be read");
  std::ostringstream text;
  text << in.rdbuf();
  auto p = parse_profile(text.str());
  if (!p) return bad(file.string() + ": " + p.error().detail);
  if (p->name.empty()) p->name = file.stem().string();
  return p;
}

nlohmann::ordered_json to_json(const device_profile& p) {
  const auto pairs = [](const std::vector<actors::rows_seconds>& points) {
    auto list = nlohmann::ordered_json::array();
    for (const auto& [rows, seconds] : points) list.push_back({rows, seconds});
    return list;
  };
  return {{"troupe_profile", profile_version},
          {"name", p.name},
          {"source", p.source},
          {"model", p.model},
          {"device", p.device},
          {"gpu", p.on_gpu},
          {"prompt", pairs(p.prompt)},
          {"decode", pairs(p.decode)},
          {"prompt_context_seconds", p.prompt_context_seconds},
          {"decode_context_seconds", p.decode_context_seconds},
          {"turn_seconds", p.turn_seconds},
          {"block_tokens", p.block_tokens},
          {"block_bytes", p.block_bytes},
          {"num_blocks", p.num_blocks},
          {"max_model_len", p.max_model_len},
          {"link_bytes_per_second", p.link_bytes_per_second},
          {"link_latency_seconds", p.link_latency_seconds},
          {"message_seconds", p.message_seconds},
          {"request_seconds", p.request_seconds}};
}

}  // namespace troupe::api
